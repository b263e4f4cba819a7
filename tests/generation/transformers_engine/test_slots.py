from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flatprobe.generation.transformers_engine.prompts import Prefilled, run, shared_heads
from flatprobe.generation.transformers_engine.slots import Slots
from flatprobe.models.load import Loaded

ROWS = [[5, 6, 7, 8, 9], [5, 6, 3], [4, 4, 2, 7, 1, 1, 9, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 2]]


def alone(loaded: Loaded, row: list[int]) -> torch.Tensor:
    return loaded.model(torch.tensor([row])).logits[0, -1]


@torch.no_grad()
def test_rows_of_different_lengths_compute_what_each_does_alone(loaded: Loaded) -> None:
    """The longest row is longer than the window of the families that have one."""
    slots = Slots(loaded.model, 3, 2)
    run(slots, [row[:-1] for row in ROWS])
    logits = slots.forward(torch.tensor([[row[-1]] for row in ROWS]))
    assert slots.lengths.tolist() == [len(row) for row in ROWS]
    for row, found in zip(ROWS, logits, strict=True):
        torch.testing.assert_close(found, alone(loaded, row), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_row_that_is_given_on_shows_nothing_of_its_past(loaded: Loaded) -> None:
    slots, other = Slots(loaded.model, 2, 1), Slots(loaded.model, 1, 1)
    run(slots, [ROWS[2], ROWS[2]])
    run(other, [ROWS[1][:-1]])
    slots.copy_from(other, [0], [0])
    assert slots.lengths.tolist() == [2, 20]
    logits = slots.forward(torch.tensor([[ROWS[1][-1]], [7]]))
    torch.testing.assert_close(logits[0], alone(loaded, ROWS[1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1], alone(loaded, [*ROWS[2], 7]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_can_be_closed_up_and_the_rest_goes_on(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    slots = Slots(loaded.model, 3, 1)
    run(slots, ROWS)
    slots.copy_from(slots, [2], [0])
    logits = slots.forward(torch.tensor([[7], [8]]))
    torch.testing.assert_close(logits[0], alone(loaded, [*ROWS[2], 7]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1], alone(loaded, [*ROWS[1], 8]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_room_grows_with_the_rows_and_keeps_what_was_there(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    slots = Slots(loaded.model, 1, 4)
    row = [5, 6, 7]
    run(slots, [row])
    for token in range(100, 200):
        row.append(token)
        logits = slots.forward(torch.tensor([[token]]))
    assert slots.columns >= 103
    torch.testing.assert_close(logits[0], alone(loaded, row), rtol=1e-3, atol=1e-3)


def test_heads_are_what_a_group_s_prompts_begin_with_and_leave_a_token_over() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 5], [1, 9, 9, 9], [1, 9, 9, 9], [7, 8]]
    assert shared_heads(rows, ["a", "a", "b", "b", "c"]) == [2, 2, 3, 3, 1]
    assert shared_heads([[1, 2], [3, 4]], ["a", "a"]) == [0, 0]
    assert shared_heads([[1], [1]], ["a", "a"]) == [0, 0]


@torch.no_grad()
@pytest.mark.parametrize("at_a_time", [1, 2, 9])
def test_prompts_with_shared_heads_hand_out_what_each_would_have_computed(
    loaded: Loaded, at_a_time: int
) -> None:
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [4, 4, 2, 7, 1, 1, 9], [11], [4, 4, 3]]
    requests = [(prompt, 2 * prompt + k) for prompt in range(5) for k in range(2)]
    prefilled = Prefilled(loaded.model, prompts, ["a", "a", "b", "c", "b"], requests)
    slots, given = Slots(loaded.model, 10, 1), []
    while rows := prefilled.fill(slots, list(range(len(given), min(10, len(given) + at_a_time)))):
        given += rows
    assert given == list(range(10))
    logits = slots.forward(torch.tensor([[prompts[request // 2][-1]] for request in given]))
    for request, found in zip(given, logits, strict=True):
        torch.testing.assert_close(found, alone(loaded, prompts[request // 2]), rtol=1e-4, atol=1e-4)
