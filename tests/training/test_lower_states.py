from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flatprobe.activations.packing import common_prefix
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach
from flatprobe.training.lower_states import LowerStates, _check_value

FIRST = 3
LORA = Lora(rank=4, alpha=8.0, dropout=0.0, rank_stabilised=False, first_layer=FIRST)


def prepared(loaded: Loaded, prompts: list[Prompt]) -> list[list[int]]:
    """Token rows; the model gets an adapter that does something in its upper blocks."""
    wrapped = attach(loaded.model, LORA, 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return [loaded.conversations.encode_prompt(prompt) for prompt in prompts]


def whole_forward(loaded: Loaded, rows: list[list[int]]) -> list[torch.Tensor]:
    """Final states of each row alone, without padding or shortcuts."""
    decoder = loaded.model.get_decoder()
    return [decoder(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0] for row in rows]


def test_final_states_equal_the_full_forward_with_and_without_cache(loaded: Loaded, prompts: list[Prompt]) -> None:
    rows = prepared(loaded, prompts)
    lower = LowerStates(loaded.model, FIRST, rows, loaded.conversations.turn_end, batch=2)
    assert lower.caching == (loaded.model.config.model_type != "gemma2")
    numbers = [3, 0, 4]
    states = lower.forward(numbers)
    for index, expected in enumerate(whole_forward(loaded, [rows[n] for n in numbers])):
        torch.testing.assert_close(states[index, : len(expected)], expected, rtol=1e-4, atol=1e-4)
    assert len(loaded.model.get_decoder().layers) == 6


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_gradients_equal_those_of_the_full_forward(
    load: Callable[[str], Loaded], prompts: list[Prompt], family: str
) -> None:
    loaded = load(family)
    rows = prepared(loaded, prompts)
    trained = [p for p in loaded.model.parameters() if p.requires_grad]

    def gradients(states: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(torch.autograd.grad(sum(s.square().sum() for s in states), trained))

    padded = LowerStates(loaded.model, FIRST, rows, loaded.conversations.turn_end, batch=8).forward([0, 1])
    cached = gradients([padded[number, : len(rows[number])] for number in (0, 1)])
    uncached = gradients(whole_forward(loaded, rows[:2]))
    for left, right in zip(cached, uncached, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_with_adapters_in_every_block_nothing_is_cached(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    loaded = load("llama")
    rows = [loaded.conversations.encode_prompt(prompt) for prompt in prompts]
    lower = LowerStates(loaded.model, 0, rows, loaded.conversations.turn_end, batch=2)
    assert not lower.caching
    torch.testing.assert_close(lower.forward([1])[0], whole_forward(loaded, rows[1:2])[0], rtol=1e-4, atol=1e-4)


def test_a_decoder_whose_upper_blocks_differ_only_on_long_rows_is_not_cached(load: Callable[[str], Loaded]) -> None:
    """Layer types are looked up by index, so upper blocks alone use the wrong mask beyond a window of 16 tokens."""
    loaded = load("qwen2")
    decoder = loaded.model.get_decoder()
    decoder.config.sliding_window = 16
    decoder.config.layer_types = ["sliding_attention"] * FIRST + ["full_attention"] * FIRST
    decoder.has_sliding_layers = True
    rows = [list(range(5, 5 + length)) for length in (4, 6, 60)]
    lower = LowerStates(loaded.model, FIRST, rows, loaded.conversations.turn_end, batch=2)
    torch.testing.assert_close(lower.forward([2])[0], whole_forward(loaded, rows[2:])[0], rtol=1e-4, atol=1e-4)


def test_after_a_failed_forward_the_decoder_has_all_blocks_and_no_hook(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    loaded = load("llama")
    rows = [loaded.conversations.encode_prompt(prompt) for prompt in prompts]
    lower = LowerStates(loaded.model, FIRST, rows, loaded.conversations.turn_end, batch=2)
    decoder = loaded.model.get_decoder()

    def fail(*args: object) -> None:
        raise RuntimeError("no memory")

    handle = decoder.layers[FIRST].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        lower.forward([0])
    handle.remove()
    assert len(decoder.layers) == 6
    assert not any(block._forward_pre_hooks for block in decoder.layers)


@pytest.mark.parametrize("first", [0, FIRST])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_packing_changes_neither_states_nor_gradients(
    load: Callable[[str], Loaded], prompts: list[Prompt], family: str, first: int
) -> None:
    loaded = load(family)
    rows = prepared(loaded, prompts)
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    lower = LowerStates(loaded.model, first, rows, loaded.conversations.turn_end, batch=8)
    lower.ratio = 1e9  # makes a single pack the cheapest
    packed = lower.forward(range(len(rows)))
    alone = whole_forward(loaded, rows)
    for states, expected in zip(packed, alone, strict=True):
        torch.testing.assert_close(states[: len(expected)], expected, rtol=1e-4, atol=1e-4)
    packed_gradients, plain_gradients = (
        torch.autograd.grad(sum(s[: len(row)].square().sum() for s, row in zip(of, rows, strict=True)), trained)
        for of in (packed, alone)
    )
    for left, right in zip(packed_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_shared_tokens_are_computed_once(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    rows = [[*range(5, 25), 30 + number] for number in range(4)]
    lower = LowerStates(loaded.model, 0, rows, loaded.conversations.turn_end, batch=8)
    lower.ratio = 1e9
    computed: list[int] = []
    handle = (
        loaded.model.get_decoder()
        .layers[0]
        .register_forward_pre_hook(
            lambda module, args, kwargs: computed.append(
                (args[0] if args else kwargs["hidden_states"]).shape[:2].numel()
            ),
            with_kwargs=True,
        )
    )
    lower.forward([0, 1, 2, 3])
    handle.remove()
    assert computed == [20 + 4]


def test_a_decoder_that_ignores_custom_masks_runs_its_rows_alone(load: Callable[[str], Loaded]) -> None:
    """In a pack it would let tokens attend to those of other rows."""
    loaded = load("llama")
    rows = [[*range(5, 25), 30 + number, *range(40, 50)] for number in range(4)]
    decoder = loaded.model.get_decoder()
    forward = decoder.forward

    def blind(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        plain = None if attention_mask is not None and attention_mask.dim() == 4 else attention_mask
        return forward(*args, attention_mask=plain, **kwargs)

    decoder.forward = blind
    lower = LowerStates(loaded.model, 0, rows, loaded.conversations.turn_end, batch=8)
    assert not lower.packing
    lower.ratio = 1e9
    for states, expected in zip(lower.forward([0, 1]), whole_forward(loaded, rows[:2]), strict=True):
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


def test_packing_is_checked_on_rows_with_different_continuations_and_not_on_near_twins() -> None:
    head = tuple(range(20))
    twins = (head + tuple(range(20, 40)) + (1,), head + tuple(range(20, 40)) + (2, 3))
    parting = (head + tuple(range(50, 70)), head + tuple(range(80, 100)))
    assert common_prefix(*twins) > common_prefix(*parting)
    assert max([twins, parting], key=_check_value) == parting
