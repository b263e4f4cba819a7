"""Packs: several rows merged into one sequence, in which each shared prefix occurs once.

All rows of a persona start with its system prompt; own and fixed answers to a question share the whole prompt. In a
pack, each token attends only to tokens of its rows, and its position id is its position in the row. So its state equals
the one it has if the row is run alone. Shared tokens are computed once, with little padding.
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
"""Maximum number of tokens in a pack of several rows; the mask's size is its square."""
MASK_COST = 4.0
"""Cost of attention with a custom mask per pair of tokens, relative to plain causal attention (measured)."""


@dataclass(frozen=True, eq=False)
class Pack:
    """One sequence of T tokens that contains some rows."""

    numbers: tuple[int, ...]
    """Indices of its rows in the packed list."""
    tokens: Indices
    """Token ids, [T]."""
    positions: Indices
    """Each token's position in its rows, [T]: its position id."""
    paths: tuple[Indices, ...]
    """Per row, the indices of its tokens in the pack."""
    ends: Indices
    """Per token, the end (exclusive) of the tokens that attend to it, [T]. They start with the token itself."""

    @property
    def holds_several(self) -> bool:
        """Whether it contains more than one row."""
        return len(self.numbers) > 1


def pack_rows(rows: Sequence[TokenRow], *, most: int, ratio: float) -> list[Pack]:
    """Pack rows, longest pack first.

    A longer pack repeats fewer shared tokens, but its masked attention costs more. For rows with n tokens after s
    shared ones, a pack of k rows costs (s + kn)(1 + (s + kn)/ratio). Per row this is least at kn = sqrt(s(ratio + s)),
    so a row joins a pack while kn is below that.

    Args:
        most: maximum number of rows in a pack; 1 leaves every row alone.
        ratio: cost of a token outside attention, in units of attending to one token (`attention_ratio`).
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number])  # puts rows with shared prefixes side by side
    groups, size = [[order[0]]], len(rows[order[0]])
    for previous, number in pairwise(order):
        shared = common_prefix(rows[previous], rows[number])
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
    """Pack rows of one forward pass into packs of similar length, so that there is little padding.

    Rows in lexicographic order are cut into the number of packs with the least cost; k packs of n tokens cost
    kn(1 + n/ratio). If separate rows cost less, each row is a pack.

    Args:
        ratio: as in `pack_rows`.
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number])
    added = [len(rows[order[0]])]
    added += [len(rows[b]) - common_prefix(rows[a], rows[b]) for a, b in pairwise(order)]
    longest = max(map(len, rows))
    least_cost = len(rows) * longest * (1 + longest / (MASK_COST * ratio))
    best_groups = [[number] for number in order]
    for count in range(1, len(rows)):
        groups, width = _cut(rows, order, added, count)
        cost = len(groups) * width * (1 + width / ratio)
        if cost < least_cost and width <= max(MAX_PACK_TOKENS, longest):
            least_cost, best_groups = cost, groups
    return [merge_rows(rows, group) for group in best_groups]


def _cut(
    rows: Sequence[TokenRow], order: Sequence[int], added: Sequence[int], count: int
) -> tuple[list[list[int]], int]:
    """Cut ordered rows into at most `count` groups with the smallest possible longest group.

    Args:
        added: tokens that each row adds to a group that ends with the previous row.

    Returns:
        The groups and the number of tokens in the longest.
    """

    def fill(most: int) -> tuple[list[list[int]], int]:
        groups: list[list[int]] = []
        sizes: list[int] = []
        for number, extra in zip(order, added, strict=True):
            if groups and sizes[-1] + extra <= most:
                groups[-1].append(number)
                sizes[-1] += extra
            else:
                groups.append([number])
                sizes.append(len(rows[number]))
        return groups, max(sizes)

    low, high = max(map(len, rows)), sum(map(len, rows))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(fill(middle)[0]) <= count else (middle + 1, high)
    return fill(low)


def attention_ratio(block: Any, hidden: int) -> float:
    """Cost of a token outside attention (2 FLOPs per weight), relative to attending to one token (4 per channel)."""
    weights: int = sum(weights.numel() for weights in block.parameters())
    return weights / (2.0 * hidden * MASK_COST)


def merge_rows(rows: Sequence[TokenRow], numbers: Sequence[int]) -> Pack:
    """Merge the rows with these indices, in lexicographic order, into one sequence.

    The order is a preorder of the prefix tree: all tokens that follow a token in some row follow it without a gap.
    """
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    paths: list[Indices] = []
    previous: TokenRow = ()
    for number in numbers:
        row = rows[number]
        shared = common_prefix(previous, row)
        start, stop = len(tokens), len(tokens) + len(row) - shared
        for token in paths[-1][shared:] if paths else ():  # tokens that are not in this row
            ends[token] = start
        new = np.arange(start, stop, dtype=np.int64)
        paths.append(np.concatenate([paths[-1][:shared], new]) if paths else new)
        tokens += row[shared:]
        positions += range(shared, len(row))
        ends += [0] * len(new)
        previous = row
    for token in paths[-1]:
        ends[token] = len(tokens)
    return Pack(tuple(numbers), np.array(tokens), np.array(positions), tuple(paths), np.array(ends))


def common_prefix(first: TokenRow, second: TokenRow) -> int:
    """Number of tokens in the common prefix of two rows."""
    shared = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        shared += 1
    return shared
