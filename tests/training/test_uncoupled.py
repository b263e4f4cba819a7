from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach
from flatprobe.training.lower_states import LowerStates
from flatprobe.training.uncoupled import Uncoupled


def coupled(loaded: Loaded, first_layer: int) -> Any:
    """An adapter that changes the model: its B matrices are random instead of 0."""
    lora = Lora(rank=4, alpha=8.0, dropout=0.3, rank_stabilised=True, first_layer=first_layer)
    wrapped = attach(loaded.model, lora, 0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return wrapped


@pytest.mark.parametrize("first_layer", [0, 3])  # with 3, lower states are cached
def test_uncoupled_states_are_those_of_the_checkpoint_for_any_adapter_and_dropout(
    load: Callable[[str], Loaded], prompts: list[Prompt], first_layer: int
) -> None:
    plain, loaded = load("llama"), load("llama")
    rows = [loaded.conversations.encode_prompt(prompt) for prompt in prompts]
    wrapped = coupled(loaded, first_layer)
    lower = LowerStates(loaded.model, first_layer, rows, loaded.conversations.turn_end, batch=2)
    uncoupled = Uncoupled(wrapped, lower)
    wrapped.train()
    for numbers in ([4, 1], [1, 2, 0]):
        states = uncoupled.forward(numbers)
        assert not states.requires_grad
        for index, number in enumerate(numbers):
            with torch.no_grad():
                expected = plain.model.get_decoder()(torch.tensor([rows[number]])).last_hidden_state[0]
            torch.testing.assert_close(states[index, : len(rows[number])], expected, rtol=1e-3, atol=1e-3)
    assert wrapped.training
    assert bool(uncoupled.cache) == (first_layer > 0)


def test_the_adapter_is_on_again_and_trainable_afterwards(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    rows = [loaded.conversations.encode("What floats on water?")]
    wrapped = coupled(loaded, 0).eval()
    lower = LowerStates(loaded.model, 0, rows, loaded.conversations.turn_end, batch=1)
    before = lower.forward([0])
    trained = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    off = Uncoupled(wrapped, lower).forward([0])
    torch.testing.assert_close(lower.forward([0]), before)
    assert float((off - before).abs().max()) > 0.1
    assert {name for name, p in wrapped.named_parameters() if p.requires_grad} == trained
