from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flatprobe.generation.transformers_engine.prompts import PromptCache, append_rows, shared_prefixes
from flatprobe.generation.transformers_engine.slots import Slots
from flatprobe.models.load import Loaded

ROWS = [[5, 6, 7, 8, 9], [5, 6, 3], [4, 4, 2, 7, 1, 1, 9, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 2]]


def alone(loaded: Loaded, row: list[int]) -> torch.Tensor:
    return loaded.model(torch.tensor([row])).logits[0, -1]


@torch.no_grad()
def test_rows_of_different_lengths_give_the_logits_of_each_row_alone(loaded: Loaded) -> None:
    """The longest row exceeds the sliding window."""
    slots = Slots(loaded.model, 3, 2)
    append_rows(slots, [row[:-1] for row in ROWS])
    logits = slots.forward(torch.tensor([[row[-1]] for row in ROWS]))
    assert slots.lengths.tolist() == [len(row) for row in ROWS]
    for row, row_logits in zip(ROWS, logits, strict=True):
        torch.testing.assert_close(row_logits, alone(loaded, row), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_reused_row_ignores_its_former_content(loaded: Loaded) -> None:
    slots, other = Slots(loaded.model, 2, 1), Slots(loaded.model, 1, 1)
    append_rows(slots, [ROWS[2], ROWS[2]])
    append_rows(other, [ROWS[1][:-1]])
    slots.copy_from(other, [0], [0])
    assert slots.lengths.tolist() == [2, 20]
    logits = slots.forward(torch.tensor([[ROWS[1][-1]], [7]]))
    torch.testing.assert_close(logits[0], alone(loaded, ROWS[1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1], alone(loaded, [*ROWS[2], 7]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_after_rows_are_moved_the_others_continue(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    slots = Slots(loaded.model, 3, 1)
    append_rows(slots, ROWS)
    slots.copy_from(slots, [2], [0])
    logits = slots.forward(torch.tensor([[7], [8]]))
    torch.testing.assert_close(logits[0], alone(loaded, [*ROWS[2], 7]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1], alone(loaded, [*ROWS[1], 8]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_columns_grow_and_keep_their_content(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    slots = Slots(loaded.model, 1, 4)
    row = [5, 6, 7]
    append_rows(slots, [row])
    for token in range(100, 200):
        row.append(token)
        logits = slots.forward(torch.tensor([[token]]))
    assert slots.columns >= 103
    torch.testing.assert_close(logits[0], alone(loaded, row), rtol=1e-3, atol=1e-3)


def test_prompts_of_a_group_share_a_prefix_that_leaves_one_token() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 5], [1, 9, 9, 9], [1, 9, 9, 9], [7, 8]]
    assert shared_prefixes(rows, ["a", "a", "b", "b", "c"]) == [2, 2, 3, 3, 1]
    assert shared_prefixes([[1, 2], [3, 4]], ["a", "a"]) == [0, 0]
    assert shared_prefixes([[1], [1]], ["a", "a"]) == [0, 0]


@torch.no_grad()
@pytest.mark.parametrize("at_a_time", [1, 2, 9])
def test_prompts_with_shared_prefixes_give_the_logits_of_each_prompt_alone(loaded: Loaded, at_a_time: int) -> None:
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [4, 4, 2, 7, 1, 1, 9], [11], [4, 4, 3]]
    requests = [(prompt, 2 * prompt + k) for prompt in range(5) for k in range(2)]
    cache = PromptCache(loaded.model, prompts, ["a", "a", "b", "c", "b"], requests)
    slots, served = Slots(loaded.model, 10, 1), []
    while rows := cache.fill(slots, list(range(len(served), min(10, len(served) + at_a_time)))):
        served += rows
    assert served == list(range(10))
    logits = slots.forward(torch.tensor([[prompts[request // 2][-1]] for request in served]))
    for request, row_logits in zip(served, logits, strict=True):
        torch.testing.assert_close(row_logits, alone(loaded, prompts[request // 2]), rtol=1e-4, atol=1e-4)
