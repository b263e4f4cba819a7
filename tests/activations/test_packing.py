from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatprobe.activations.packing import (
    MASK_COST,
    MAX_PACK_TOKENS,
    attention_ratio,
    merge_rows,
    pack_one_pass,
    pack_rows,
)

rows_of_few_tokens = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12).map(tuple), min_size=1, max_size=12)


@settings(deadline=None)
@given(rows=rows_of_few_tokens, most=st.integers(1, 5), ratio=st.floats(0.0, 1e4))
def test_every_row_is_in_one_pack_with_its_tokens_at_their_positions(
    rows: list[tuple[int, ...]], most: int, ratio: float
) -> None:
    packs = pack_rows(rows, most=most, ratio=ratio)
    assert sorted(number for pack in packs for number in pack.numbers) == list(range(len(rows)))
    assert all(len(pack.numbers) <= most for pack in packs)
    assert [len(pack.tokens) for pack in packs] == sorted((len(pack.tokens) for pack in packs), reverse=True)
    for pack in packs:
        for number, path in zip(pack.numbers, pack.paths, strict=True):
            assert tuple(pack.tokens[path]) == rows[number]
            assert list(pack.positions[path]) == list(range(len(rows[number])))


@settings(deadline=None)
@given(rows=rows_of_few_tokens)
def test_a_token_attends_to_exactly_the_tokens_before_it_in_its_row(rows: list[tuple[int, ...]]) -> None:
    pack = merge_rows(sorted(rows), range(len(rows)))
    for number, path in zip(pack.numbers, pack.paths, strict=True):
        for position, token in enumerate(path):
            visible = [other for other in range(token + 1) if token < pack.ends[other]]
            assert tuple(pack.tokens[visible]) == sorted(rows)[number][: position + 1]
            assert set(visible) == set(path[: position + 1])


def test_a_shared_prefix_and_a_repeated_row_occur_once() -> None:
    pack = merge_rows([(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5)], [0, 1, 2])
    assert list(pack.tokens) == [1, 2, 3, 4, 5]
    assert list(pack.positions) == [0, 1, 2, 3, 2]
    assert [list(path) for path in pack.paths] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 4]]
    assert list(pack.ends) == [5, 5, 4, 4, 5]


def test_rows_without_a_shared_prefix_stay_separate() -> None:
    packs = pack_rows([(1, 2), (3, 4), (5, 6)], most=8, ratio=1e6)
    assert [pack.holds_several for pack in packs] == [False, False, False]


@pytest.mark.parametrize(("head", "tail", "ratio"), [(25, 46, 3000.0), (30, 400, 30_000.0), (60, 20, 500.0)])
def test_packs_have_nearly_the_cheapest_size(head: int, tail: int, ratio: float) -> None:
    rows = [(*range(head), 1000 + number, *range(2000, 1999 + tail)) for number in range(200)]

    def cost(size: int) -> float:
        """Cost of one row in packs of `size` rows: tokens outside attention, and attention over the pack."""
        tokens = head + size * tail
        return tokens * (1 + tokens / ratio) / size

    best = min(cost(size) for size in range(1, 200))
    size = max(len(pack.numbers) for pack in pack_rows(rows, most=200, ratio=ratio))
    assert size > 1
    assert cost(size) < 1.05 * best


def test_no_pack_of_several_rows_exceeds_the_token_limit() -> None:
    rows = [(*range(400), 1000 + number) for number in range(2000)]
    assert max(len(pack.tokens) for pack in pack_rows(rows, most=4000, ratio=1e9)) == MAX_PACK_TOKENS


def test_the_ratio_divides_weights_by_channels() -> None:
    assert attention_ratio(nn.Linear(8, 12, bias=False), hidden=8) == 96 / 16 / MASK_COST


@settings(deadline=None)
@given(rows=rows_of_few_tokens, ratio=st.floats(1e-3, 1e6))
def test_packs_of_one_pass_contain_every_row_and_cost_no_more_than_separate_rows(
    rows: list[tuple[int, ...]], ratio: float
) -> None:
    packs = pack_one_pass(rows, ratio=ratio)
    assert sorted(number for pack in packs for number in pack.numbers) == list(range(len(rows)))
    for pack in packs:
        for number, path in zip(pack.numbers, pack.paths, strict=True):
            assert tuple(pack.tokens[path]) == rows[number]
    width, longest = max(len(pack.tokens) for pack in packs), max(map(len, rows))
    mask_cost = 1.0 if any(pack.holds_several for pack in packs) else MASK_COST
    alone = len(rows) * longest * (1 + longest / (MASK_COST * ratio))
    assert len(packs) * width * (1 + width / (mask_cost * ratio)) <= alone * (1 + 1e-9)


def test_packs_of_one_pass_with_similar_rows_have_similar_lengths() -> None:
    rows = [(*range(40), 1000 + number, *range(50)) for number in range(16)]
    sizes = [len(pack.tokens) for pack in pack_one_pass(rows, ratio=768.0)]
    assert 1 < len(sizes) < 16
    assert max(sizes) - min(sizes) <= 51  # at most one row


def test_packs_of_one_pass_exceed_the_token_limit_only_for_a_longer_row() -> None:
    rows = [(*range(1000), number, *range(900)) for number in range(6)]
    assert [len(pack.tokens) for pack in pack_one_pass(rows, ratio=1e9)] == [1901] * 6
