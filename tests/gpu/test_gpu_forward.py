"""What a forward pass gives on a GPU: logits, hidden states at every position, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch

from flatprobe.activations.positions import probed_row
from flatprobe.activations.read import read_states
from flatprobe.config.blocks import Position
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.models.conversation import Prompt

pytestmark = pytest.mark.gpu
POSITIONS: tuple[Position, ...] = get_args(Position)
ANSWERS = ("Small ducks float, and so does bread.", "Nobody knows.\n\nI would ask again.\n", "Yes.")
Relative = Callable[[Any, Any], float]


@torch.inference_mode()
def test_logits_are_those_of_the_cpu(pair: Any, panel_prompts: list[Prompt], relative: Relative) -> None:
    for prompt in panel_prompts[::4]:
        ids = torch.tensor([pair.reference.conversations.encode_prompt(prompt)])
        found = pair.tested.model(ids.to(pair.tested.device)).logits
        assert relative(found, pair.reference.model(ids).logits) < pair.tolerance


def test_states_at_every_position_are_those_of_the_cpu(
    pair: Any, panel_prompts: list[Prompt], relative: Relative
) -> None:
    """The device packs rows that share a beginning; the reference runs one row at a time."""
    rows = [
        probed_row(pair.reference.conversations, prompt, ANSWERS[number % len(ANSWERS)])
        for number, prompt in enumerate(panel_prompts)
    ]
    depth = pair.reference.model.config.num_hidden_layers
    layers = (0, depth // 2, depth - 1)
    found = read_states(pair.tested, rows, layers, POSITIONS, batch=8)
    expected = read_states(pair.reference, rows, layers, POSITIONS, batch=1)
    assert found.computed < expected.computed
    for position in POSITIONS:
        assert np.isfinite(found.states[position]).all()
        for place, layer in enumerate(layers):
            error = relative(found.states[position][:, place], expected.states[position][:, place])
            assert error < pair.tolerance, (position, layer)


def test_teacher_forced_log_probabilities_are_those_of_the_cpu(
    pair: Any, panel_prompts: list[Prompt], relative: Relative
) -> None:
    conversations = pair.reference.conversations
    contexts = [conversations.encode_prompt(prompt) for prompt in panel_prompts]
    targets = [conversations.encode(f" {ANSWERS[n % len(ANSWERS)]}\n\n[ZLT]") for n in range(len(contexts))]
    found, expected = (
        np.concatenate(TransformersEngine(loaded, 8).log_probabilities(contexts, targets))
        for loaded in (pair.tested, pair.reference)
    )
    assert relative(found, expected) < pair.tolerance
