"""Length matching: select answers from a surplus so that all conditions and groups have similar lengths.

1. The target distribution is the bin-wise minimum of all groups' length densities.
2. Each group keeps n answers: those closest to n quantiles of the target (optimal assignment without replacement).
3. Small groups may still differ in median or interquartile range. Groups outside the tolerance exchange single answers
   until they are within it, or no exchange helps.
4. `data.coupling_set` may cut answers that are still too long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import gaussian_kde, ks_2samp

Lengths = NDArray[np.int64]
BIN = 4  # tokens per bin
GRAIN = 1.0  # tokens; a difference of one token is always allowed, because lengths are whole tokens
OVERLAP = 0.05  # least probability mass common to all groups; below it they share no support


@dataclass(frozen=True)
class Summary:
    """Length statistics of one group in tokens; the relative ones compare with the pooled lengths."""

    count: int
    median: float
    iqr: float
    ks_distance: float
    relative_median: float
    relative_iqr: float


def common_density(groups: Sequence[Lengths]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bin edges, and the normalised bin-wise minimum of the groups' densities.

    Densities are Gaussian kernel estimates with Scott's bandwidth, so that small groups overlap if their distributions
    do. The minimum is all zeros if it has less than `OVERLAP` of the probability.
    """
    top = max(int(lengths.max()) for lengths in groups) + BIN
    edges = np.arange(0, top + BIN, BIN, dtype=np.float64)
    least = np.minimum.reduce([_shares(lengths, edges) for lengths in groups])
    total = least.sum()
    return edges, least / total if total >= OVERLAP else np.zeros_like(least)


def _shares(lengths: Lengths, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a group per bin, summing to 1; smoothed unless all lengths are equal."""
    if len(lengths) < 2 or lengths.min() == lengths.max():
        return np.histogram(lengths, edges)[0] / len(lengths)
    density = gaussian_kde(lengths)((edges[:-1] + edges[1:]) / 2)
    shares: NDArray[np.float64] = density / density.sum()
    return shares


def target_quantiles(edges: NDArray[np.float64], density: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """n lengths at the quantiles (i + 0.5) / n of a histogram, interpolated linearly inside a bin."""
    levels = (np.arange(n) + 0.5) / n
    upper = density.cumsum()
    bins = np.searchsorted(upper, levels)
    inside = 1.0 - (upper[bins] - levels) / density[bins]
    quantiles: NDArray[np.float64] = edges[bins] + inside * np.diff(edges)[bins]
    return quantiles


@dataclass(frozen=True)
class Selection:
    """The selected answers of one group."""

    index: NDArray[np.int64]
    """Ascending indices of the answers."""
    targets: NDArray[np.float64]
    """Target length of each selected answer, in tokens."""


def select(lengths: Lengths, targets: NDArray[np.float64]) -> Selection:
    """The answers with the smallest total distance to the targets, each used once; len(targets) <= len(lengths)."""
    cost = np.abs(lengths[None, :] - targets[:, None])
    target_index, index = linear_sum_assignment(cost)
    order = np.argsort(index)
    return Selection(index[order], targets[target_index[order]])


def match(groups: Mapping[str, Lengths], sizes: Mapping[str, int]) -> dict[str, Selection] | None:
    """The selection per group; None if the groups share no support."""
    edges, density = common_density(list(groups.values()))
    if density.sum() == 0:
        return None
    return {
        name: select(lengths, target_quantiles(edges, density, min(sizes[name], len(lengths))))
        for name, lengths in groups.items()
    }


def settle(
    groups: Mapping[str, Lengths], selections: Mapping[str, Selection], tolerance: float, passes: int = 20
) -> dict[str, Selection]:
    """In groups outside the tolerance, exchange selected for unselected answers, one per group and pass.

    Each exchange leaves the smallest `excess` over all groups' selected lengths; of several, the one between the
    closest lengths. The new answer takes over the target of the old one.
    """
    current = dict(selections)
    for _ in range(passes):
        selected = {name: groups[name][selection.index] for name, selection in current.items()}
        pooled = np.concatenate(list(selected.values()))
        exchanged = {
            name: selection
            for name in sorted(outside(selected, tolerance))
            if (selection := _exchange_one(groups[name], current[name], pooled)) is not None
        }
        if not exchanged:
            return current
        current |= exchanged
    return current


def _exchange_one(lengths: Lengths, selection: Selection, pooled: Lengths) -> Selection | None:
    """The selection after its best exchange; None if no exchange brings it closer to the pooled lengths."""
    unselected = np.setdiff1d(np.arange(len(lengths)), selection.index)
    selected = lengths[selection.index]
    best, least = None, max(excess(selected, pooled))
    _, slots = np.unique(selected, return_index=True)  # one slot and one candidate per length suffice
    _, candidates = np.unique(lengths[unselected], return_index=True)
    for slot in slots:
        for candidate in unselected[candidates]:
            changed = selected.copy()
            changed[slot] = lengths[candidate]
            distance = abs(int(lengths[candidate]) - int(selected[slot]))
            value = max(excess(changed, pooled))
            if value < least or (best is not None and value == least and distance < best[2]):
                best, least = (slot, candidate, distance), value
    if best is None:
        return None
    index = selection.index.copy()
    index[best[0]] = best[1]
    order = np.argsort(index)
    return Selection(index[order], selection.targets[order])


def outside(groups: Mapping[str, Lengths], tolerance: float) -> set[str]:
    """Groups whose `excess` in median or interquartile range is above the tolerance."""
    pooled = np.concatenate(list(groups.values()))
    return {name for name, lengths in groups.items() if max(excess(lengths, pooled)) > tolerance}


def summarise(lengths: Lengths, pooled: Lengths) -> Summary:
    """Median, interquartile range and Kolmogorov-Smirnov distance of a group against the pooled lengths (all >= 1).

    The denominator of the relative range is at least one token, for pools without spread.
    """
    quartiles = np.percentile(lengths, [25, 50, 75])
    reference = np.percentile(pooled, [25, 50, 75])
    iqr, pooled_iqr = float(quartiles[2] - quartiles[0]), float(reference[2] - reference[0])
    return Summary(
        count=len(lengths),
        median=float(quartiles[1]),
        iqr=iqr,
        ks_distance=float(ks_2samp(lengths, pooled).statistic),
        relative_median=float(quartiles[1] / reference[1] - 1),
        relative_iqr=(iqr - pooled_iqr) / max(pooled_iqr, 1.0),
    )


def excess(lengths: Lengths, pooled: Lengths) -> tuple[float, float]:
    """Relative differences of a group's median and interquartile range from the pooled ones, beyond `GRAIN` tokens.

    Lengths are whole tokens, so a tenth of a short answer may be less than one token; hence `GRAIN`. The denominator of
    the range is at least one token.
    """
    quartiles, reference = np.percentile(lengths, [25, 50, 75]), np.percentile(pooled, [25, 50, 75])
    iqr, pooled_iqr = float(quartiles[2] - quartiles[0]), float(reference[2] - reference[0])
    median = max(0.0, abs(float(quartiles[1] - reference[1])) - GRAIN) / float(reference[1])
    return median, max(0.0, abs(iqr - pooled_iqr) - GRAIN) / max(pooled_iqr, 1.0)
