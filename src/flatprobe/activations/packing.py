"""Packs: rows laid into one sequence in which tokens that they begin with in common stand, and are computed, once.

All rows of a persona begin with its system prompt, and own and fixed answers to a question with the whole prompt. In a
pack every token attends to the tokens of its own rows only and is rotated by its place in the row, so its state is the
one it would have had in a row of its own. No token is computed twice and hardly any padding is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

TokenRow = tuple[int, ...]
Indices = NDArray[np.int64]
MAX_PACK_TOKENS = 2048
"""Tokens in a pack of several rows, at most: its mask has their square."""
MASK_COST = 4.0
"""What attention under a mask of one's own costs a pair of tokens, in units of plain causal attention (measured)."""


@dataclass(frozen=True, eq=False)
class Pack:
    """One sequence of T tokens that holds some rows."""

    numbers: tuple[int, ...]
    """Which rows, by their numbers in the list that was packed."""
    tokens: Indices
    """Token ids, [T]."""
    positions: Indices
    """Each token's place in its rows, [T]: its position id."""
    paths: tuple[Indices, ...]
    """Per row, where each of its tokens stands in the pack."""

    ends: Indices
    """Per token, where the tokens end that see it: they are those from itself up to there, [T]."""

    @property
    def holds_several(self) -> bool:
        """Whether it holds more than one row."""
        return len(self.numbers) > 1


def pack_rows(rows: Sequence[TokenRow], *, most: int, ratio: float) -> list[Pack]:
    """Pack rows, longest pack first. With `most` 1 every row stays alone.

    A longer pack computes fewer shared tokens again but lets every token attend to more that it does not see. For rows
    of n tokens behind s shared ones, a pack of k rows costs (s + kn)(1 + (s + kn)/ratio) per k rows, which is least at
    kn = sqrt(s(ratio + s)); a row joins a pack while it is below that.

    Args:
        most: rows in a pack, at most.
        ratio: cost of a token outside attention, in units of what it costs to attend to one token.
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number])  # what rows share makes them neighbours
    groups, size = [[order[0]]], len(rows[order[0]])
    for before, number in pairwise(order):
        shared = common_prefix(rows[before], rows[number])
        grown = size + len(rows[number]) - shared
        if (
            len(groups[-1]) < most
            and size - shared <= math.sqrt(shared * (ratio + shared))
            and grown <= MAX_PACK_TOKENS
        ):
            groups[-1].append(number)
            size = grown
        else:
            groups.append([number])
            size = len(rows[number])
    packs = [merge_rows(rows, group) for group in groups]
    return sorted(packs, key=lambda pack: -len(pack.tokens))


def pack_one_pass(rows: Sequence[TokenRow], *, ratio: float) -> list[Pack]:
    """Pack rows that run in one pass: packs of about one length, so that little padding is computed beside them.

    Rows in lexicographic order are cut into as many packs as cost least, k packs of n tokens being kn(1 + n/ratio);
    where every row alone costs less, each is.

    Args:
        ratio: as of `packed`.
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number])
    fresh = [len(rows[order[0]])]
    fresh += [len(rows[b]) - common_prefix(rows[a], rows[b]) for a, b in pairwise(order)]
    longest = max(map(len, rows))
    least, chosen = len(rows) * longest * (1 + longest / (MASK_COST * ratio)), [[number] for number in order]
    for count in range(1, len(rows)):
        groups, width = _cut(rows, order, fresh, count)
        cost = len(groups) * width * (1 + width / ratio)
        if cost < least and width <= max(MAX_PACK_TOKENS, longest):
            least, chosen = cost, groups
    return [merge_rows(rows, group) for group in chosen]


def _cut(
    rows: Sequence[TokenRow], order: Sequence[int], fresh: Sequence[int], count: int
) -> tuple[list[list[int]], int]:
    """Cut ordered rows into at most `count` groups whose longest is as short as can be; returns its length, too.

    Args:
        fresh: tokens that each row adds to a group that ends with the row before it.
    """

    def filled(most: int) -> tuple[list[list[int]], int]:
        groups: list[list[int]] = []
        sizes: list[int] = []
        for number, added in zip(order, fresh, strict=True):
            if groups and sizes[-1] + added <= most:
                groups[-1].append(number)
                sizes[-1] += added
            else:
                groups.append([number])
                sizes.append(len(rows[number]))
        return groups, max(sizes)

    low, high = max(map(len, rows)), sum(map(len, rows))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(filled(middle)[0]) <= count else (middle + 1, high)
    return filled(low)


def attention_ratio(block: Any, hidden: int) -> float:
    """Cost of a token outside attention (2 FLOPs a weight) in units of attending to one token (4 a channel)."""
    weights: int = sum(weights.numel() for weights in block.parameters())
    return weights / (2.0 * hidden * MASK_COST)


def merge_rows(rows: Sequence[TokenRow], numbers: Sequence[int]) -> Pack:
    """Lay the rows of these numbers, given in lexicographic order, into one sequence.

    In that order the tokens that come after a token in any row follow it without a gap (a tree's nodes in preorder).
    """
    tokens: list[int] = []
    places: list[int] = []
    ends: list[int] = []
    paths: list[Indices] = []
    before: TokenRow = ()
    for number in numbers:
        row = rows[number]
        shared = common_prefix(before, row)
        start, stop = len(tokens), len(tokens) + len(row) - shared
        left = paths[-1][shared:] if paths else ()
        for token in left:  # what only earlier rows hold
            ends[token] = start
        new = np.arange(start, stop, dtype=np.int64)
        paths.append(np.concatenate([paths[-1][:shared], new]) if paths else new)
        tokens += row[shared:]
        places += range(shared, len(row))
        ends += [0] * len(new)
        before = row
    for token in paths[-1]:
        ends[token] = len(tokens)
    return Pack(tuple(numbers), np.array(tokens), np.array(places), tuple(paths), np.array(ends))


def common_prefix(first: TokenRow, second: TokenRow) -> int:
    """How many tokens two rows begin with in common."""
    shared = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        shared += 1
    return shared
