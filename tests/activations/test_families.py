from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refused
from torch import nn

from flatprobe.activations.positions import ProbedRow
from flatprobe.activations.read import read_states
from flatprobe.activations.record import check_decoder_only, decoder_blocks, record, run_recorded
from flatprobe.config.blocks import Position
from flatprobe.models.load import Loaded

FAMILIES = (
    "llama",
    "smollm2",
    "smollm3",
    "qwen2",
    "qwen2-windowed",
    "qwen3",
    "mistral",
    "mistral-unwindowed",
    "gemma",
    "gemma2",
    "gemma3",
)
LAYERS = (3, 0, 2)
POSITIONS: tuple[Position, ...] = (
    "last_response_token",
    "turn_end_token",
    "last_prompt_token",
    "response_mean",
    "prompt_mean",
    "all_mean",
)
PERSONAS = {"librarian": (5, 6, 7, 8, 9, 10, 11), "villain": (5, 6, 12, 13, 14, 15, 16, 17, 18)}
QUESTIONS = {"q0": (20, 21, 22, 2), "q1": (23, 24, 2)}
ANSWERS = {"q0": ((30, 31, 32), (33,) * 9), "q1": ((30, 31, 34, 35), (36, 37))}


def row(persona: str, question: str, answer: tuple[int, ...]) -> ProbedRow:
    """A row whose answer ends with a white-space token."""
    prompt = PERSONAS[persona] + QUESTIONS[question]
    return ProbedRow(persona, question, (*prompt, *answer, 0), len(prompt), len(prompt) + len(answer) - 2)


ROWS = [row(p, q, answer) for p in PERSONAS for q in QUESTIONS for answer in (*ANSWERS[q], ANSWERS["q0"][0])]


def as_loaded(model: Any) -> Loaded:
    conversations: Any = SimpleNamespace(turn_end=0)
    return Loaded(model, conversations, torch.device("cpu"))


@torch.no_grad()
def by_library(model: Any, probed: ProbedRow, layer: int) -> dict[Position, Any]:
    """States of one row from the library's hidden states; those of the last block are the final norm's input."""
    norm_inputs: list[Any] = []
    hook = model.get_decoder().norm.register_forward_pre_hook(lambda _, args: norm_inputs.append(args[0]))
    library = model(torch.tensor([probed.tokens]), output_hidden_states=True).hidden_states
    hook.remove()
    states = (norm_inputs[0] if layer == len(library) - 2 else library[layer + 1])[0].double().numpy()
    end = probed.n_prompt
    return {
        "last_response_token": states[-3],
        "turn_end_token": states[-1],
        "last_prompt_token": states[end - 1],
        "response_mean": states[end:-1].mean(0),
        "prompt_mean": states[1:end].mean(0),
        "all_mean": states[1:].mean(0),
    }


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_recorded_block_outputs_equal_the_library_s_hidden_states(
    family_model: Callable[[str], Any], family: str
) -> None:
    model = family_model(family)
    ids = torch.tensor([ROWS[0].tokens])
    library = model(ids, output_hidden_states=True).hidden_states
    with record(model, range(4)) as recording:
        run_recorded(model, input_ids=ids)
    for layer in range(3):
        torch.testing.assert_close(recording.states[layer], library[layer + 1])
    assert not torch.allclose(recording.states[3], library[4], atol=1e-2)
    torch.testing.assert_close(model.get_decoder().norm(recording.states[3]), library[4])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_states_of_packed_rows_equal_those_of_separate_rows_in_every_family(
    family_model: Callable[[str], Any], family: str, batch: int
) -> None:
    model = family_model(family)
    reading = read_states(as_loaded(model), ROWS, LAYERS, POSITIONS, batch=batch)
    assert reading.tokens == sum(len(probed.tokens) for probed in ROWS)
    assert (reading.computed < reading.tokens) == (batch > 1)  # no family falls back to separate rows
    for number, probed in enumerate(ROWS):
        for index, layer in enumerate(LAYERS):
            expected = by_library(model, probed, layer)
            for position in POSITIONS:
                np.testing.assert_allclose(
                    reading.states[position][number, index], expected[position], rtol=1e-4, atol=2e-4
                )


@pytest.mark.parametrize("family", ["llama", "qwen2-windowed", "mistral", "gemma2", "gemma3"])
@torch.no_grad()
def test_padding_on_either_side_changes_no_state(family_model: Callable[[str], Any], family: str) -> None:
    decoder = family_model(family).get_decoder()
    width = max(len(probed.tokens) for probed in ROWS)
    for side in ("left", "right"):
        ids = torch.zeros((len(ROWS), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, probed in enumerate(ROWS):
            start = width - len(probed.tokens) if side == "left" else 0
            ids[line, start : start + len(probed.tokens)] = torch.tensor(probed.tokens)
            mask[line, start : start + len(probed.tokens)] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with record(decoder, LAYERS) as recording:
            run_recorded(decoder, input_ids=ids, attention_mask=mask, position_ids=positions)
        for line, probed in enumerate(ROWS):
            with record(decoder, LAYERS) as alone:
                run_recorded(decoder, input_ids=torch.tensor([probed.tokens]))
            for layer in LAYERS:
                torch.testing.assert_close(
                    recording.states[layer][line][mask[line].bool()], alone.states[layer][0], rtol=1e-4, atol=2e-4
                )


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_bfloat16_states_differ_by_less_than_five_percent_from_float32_ones(
    family_model: Callable[[str], Any], family: str
) -> None:
    model = copy.deepcopy(family_model(family))
    for weights in model.parameters():
        weights.mul_(0.5)  # like trained weights, which amplify rounding less than large random ones
    exact = read_states(as_loaded(model), ROWS, LAYERS, POSITIONS, batch=8).states
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    for batch in (1, 8):
        states = read_states(as_loaded(rounded), ROWS, LAYERS, POSITIONS, batch=batch).states
        for position in POSITIONS:
            error = np.linalg.norm(states[position] - exact[position], axis=-1)
            assert (error < 0.05 * np.linalg.norm(exact[position], axis=-1)).all()
            assert states[position].dtype == np.float32


def test_a_model_that_ignores_the_mask_is_read_row_by_row(family_model: Callable[[str], Any]) -> None:
    """A decoder that ignores the mask mixes the rows of a pack; the check detects it."""
    model = copy.deepcopy(family_model("llama"))
    decoder, forward = model.get_decoder(), model.get_decoder().forward
    decoder.forward = lambda **inputs: forward(**inputs | {"attention_mask": None})
    reading = read_states(as_loaded(model), ROWS, LAYERS, POSITIONS, batch=1)
    packed = read_states(as_loaded(model), ROWS, LAYERS, POSITIONS, batch=4)
    assert packed.computed == packed.tokens == reading.tokens


def test_as_many_experts_as_blocks_are_not_taken_for_blocks(family_model: Callable[[str], Any]) -> None:
    model = copy.deepcopy(family_model("llama"))
    for block in model.model.layers:
        block.experts = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))
    assert decoder_blocks(model) is model.model.layers


def test_encoder_decoder_and_multimodal_models_are_refused() -> None:
    from transformers import BartConfig, Gemma3Config

    class Speaker:
        def __init__(self, config: Any) -> None:
            self.config = config

    with refused(("model.architecture", "Speaker"), value="encoder-decoder"):
        check_decoder_only(Speaker(BartConfig()))
    with refused(("model.architecture", "Speaker"), value="text, vision"):
        check_decoder_only(Speaker(Gemma3Config()))


def test_every_family_passes_as_decoder_only(family_model: Callable[[str], Any]) -> None:
    for family in FAMILIES:
        check_decoder_only(family_model(family))
