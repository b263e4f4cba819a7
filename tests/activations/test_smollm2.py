"""Reading states of a trained model, which have very large entries, unlike those of random models."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from flatprobe.activations.positions import probed_row
from flatprobe.activations.read import read_states
from flatprobe.models import embedded
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import load_checkpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(embedded.PACKAGE) is None or not embedded.is_converted(),
    reason="the embedded model is not installed or not yet converted",
)
LAYERS = (0, 14, 28)


def test_states_of_packed_rows_of_smollm2_equal_the_library_s_hidden_states() -> None:
    loaded = load_checkpoint(embedded.converted_folder(), "float32", torch.device("cpu"))
    prompts = [
        Prompt(name, system, question, text)
        for name, system in (("librarian", "You are a librarian who speaks softly."), ("default", None))
        for question, text in (("q1", "Why is the sky blue?"), ("q2", "What floats?"))
    ]
    rows = [probed_row(loaded.conversations, prompt, "Small ducks, and bread.\n") for prompt in prompts]
    reading = read_states(loaded, rows, LAYERS, ("last_response_token", "all_mean"), batch=4)
    assert reading.computed < 0.8 * reading.tokens
    for number, row in enumerate(rows):
        with torch.no_grad():
            library = loaded.model(torch.tensor([row.tokens]), output_hidden_states=True).hidden_states
        for index, layer in enumerate(LAYERS):
            states = library[layer + 1][0].numpy()
            last, mean = states[row.last_content], states[1:].mean(0)
            for position, expected in (("last_response_token", last), ("all_mean", mean)):
                difference = reading.states[position][number, index] - expected
                assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(expected)
