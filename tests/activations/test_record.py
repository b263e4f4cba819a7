from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from refusals import refused
from torch import nn

from flatprobe.activations.record import decoder_blocks, record, run_recorded
from flatprobe.models.load import Loaded

DEPTH = 6
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def no_hooks(model: nn.Module) -> bool:
    return not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_states_equal_the_library_s_hidden_states_and_the_last_ones_precede_the_norm(loaded: Loaded) -> None:
    decoder = loaded.model.get_decoder()
    library = loaded.model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    with record(decoder, range(DEPTH)) as recording:
        run_recorded(decoder, input_ids=IDS, attention_mask=MASK)
    real = MASK.bool()
    for layer in range(DEPTH - 1):
        torch.testing.assert_close(recording.states[layer][real], library[layer + 1][real])
    last = recording.states[DEPTH - 1]
    torch.testing.assert_close(decoder.norm(last)[real], library[DEPTH][real])
    assert not torch.allclose(last[real], library[DEPTH][real], atol=1e-2)
    assert last.shape == (2, 5, 32)


@torch.no_grad()
def test_a_layer_recorded_alone_has_the_same_states_as_with_all_layers(loaded: Loaded) -> None:
    decoder = loaded.model.get_decoder()
    with record(decoder, range(DEPTH)) as all_layers:
        run_recorded(decoder, input_ids=IDS, attention_mask=MASK)
    with record(decoder, [2, 0, 2]) as some:
        run_recorded(decoder, input_ids=IDS, attention_mask=MASK)
    assert set(some.states) == {0, 2}
    assert all(torch.equal(state, all_layers.states[layer]) for layer, state in some.states.items())


@torch.no_grad()
def test_blocks_above_the_last_requested_one_the_norm_and_the_head_never_run(load: Callable[[str], Loaded]) -> None:
    model, ran = load("llama").model, []
    decoder = model.get_decoder()
    parts = {"head": model.lm_head, "norm": decoder.norm}
    parts |= {f"block {layer}": block for layer, block in enumerate(decoder.layers)}
    for name, module in parts.items():
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    with record(model, [0, 2]):
        run_recorded(model, input_ids=IDS, attention_mask=MASK)
    assert ran == ["block 0", "block 1", "block 2"]


@torch.no_grad()
def test_without_an_early_stop_the_model_s_output_is_unchanged(load: Callable[[str], Loaded]) -> None:
    model = load("llama").model
    plain = model(IDS).logits
    with record(model, [1], stop_early=False) as recording:
        assert torch.equal(model(IDS).logits, plain)
    assert recording.states[1].shape == (2, 5, 32)


def test_all_hooks_are_removed(load: Callable[[str], Loaded]) -> None:
    decoder = load("llama").model.get_decoder()
    with record(decoder, [0, 3]):
        assert not no_hooks(decoder)
    assert no_hooks(decoder)


def test_all_hooks_are_removed_after_an_error(load: Callable[[str], Loaded]) -> None:
    decoder = load("llama").model.get_decoder()
    with pytest.raises(ZeroDivisionError), record(decoder, [0, 3]):
        raise ZeroDivisionError
    assert no_hooks(decoder)


def test_an_error_of_the_forward_pass_is_not_swallowed(load: Callable[[str], Loaded]) -> None:
    decoder = load("llama").model.get_decoder()
    with pytest.raises(IndexError), record(decoder, [0]):
        run_recorded(decoder, input_ids=torch.tensor([[100_000]]))
    assert no_hooks(decoder)


@pytest.mark.parametrize("layer", [6, -1])
def test_a_missing_layer_is_refused(load: Callable[[str], Loaded], layer: int) -> None:
    decoder = load("llama").model.get_decoder()
    with refused(("geometry.layers", "geometry.layers"), value="0-5"), record(decoder, [0, layer]):
        raise AssertionError("never entered")
    assert no_hooks(decoder)


def test_blocks_are_found_in_decoder_and_whole_model_unless_ambiguous(load: Callable[[str], Loaded]) -> None:
    model = load("mistral").model
    assert decoder_blocks(model) is decoder_blocks(model.get_decoder()) is model.model.layers
    model.extra = nn.ModuleList(nn.Linear(1, 1) for _ in range(DEPTH))
    with refused(("model.decoder_blocks", type(model).__name__), value="2 module lists of length 6"):
        decoder_blocks(model)


@torch.no_grad()
def test_of_a_block_s_output_only_the_kept_part_stays_in_memory(load: Callable[[str], Loaded]) -> None:
    decoder = load("llama").model.get_decoder()
    outputs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def keep(states: torch.Tensor) -> torch.Tensor:
        alive.append(sum(output() is not None for output in outputs))
        outputs.append(weakref.ref(states))
        return states[:, -1].clone()

    with record(decoder, range(DEPTH), keep=keep) as recording:
        run_recorded(decoder, input_ids=IDS, attention_mask=MASK)
    assert {state.shape for state in recording.states.values()} == {(2, 32)}
    assert len(alive) == DEPTH and max(alive) <= 1  # at most the previous block's output, which is this block's input


def test_a_block_whose_output_has_another_shape_is_refused(load: Callable[[str], Loaded]) -> None:
    decoder = load("llama").model.get_decoder()
    decoder.layers[1].register_forward_hook(lambda *_: torch.zeros(4, 2, 5, 32))
    with refused(("model.block_output", type(decoder).__name__), value="block 1"), record(decoder, [1]):
        run_recorded(decoder, input_ids=IDS)
