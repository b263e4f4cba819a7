"""Length matching: one join over all conditions and groups, by selection from a surplus.

All groups are matched to one target: the distribution that lies under every group's own (the bin-wise minimum of
their densities), read off at n quantiles. Each group then gives the answers whose lengths are closest to those
quantiles, by optimal assignment without replacement. Closeness to each quantile is not yet agreement of median and
interquartile range, least of all in small groups: those that differ by more than the tolerance exchange single answers
until they do not, or no exchange brings them closer. What is still too long may then be cut.
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
GRAIN = 1.0  # tokens by which lengths of whole tokens may always differ
OVERLAP = 0.05  # share of probability under all groups below which there is no common support


@dataclass(frozen=True)
class Summary:
    """Length statistics of one group; the relative ones compare with the pooled target."""

    count: int
    median: float
    iqr: float
    ks_distance: float
    relative_median: float
    relative_iqr: float


def common_density(groups: Sequence[Lengths]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bin edges and the normalised bin-wise minimum of the groups' densities; all zeros without common support.

    Densities are Gaussian kernel estimates with Scott's bandwidth, so that small groups meet as their distributions
    do and not as their few lengths happen to fall; groups whose minimum holds under `OVERLAP` share no support.
    """
    top = max(int(lengths.max()) for lengths in groups) + BIN
    edges = np.arange(0, top + BIN, BIN, dtype=np.float64)
    least = np.minimum.reduce([_shares(lengths, edges) for lengths in groups])
    total = least.sum()
    return edges, least / total if total >= OVERLAP else np.zeros_like(least)


def _shares(lengths: Lengths, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a group per bin, smoothed where there is a spread to smooth by; sums to 1."""
    if len(lengths) < 2 or lengths.min() == lengths.max():
        return np.histogram(lengths, edges)[0] / len(lengths)
    density = gaussian_kde(lengths)((edges[:-1] + edges[1:]) / 2)
    shares: NDArray[np.float64] = density / density.sum()
    return shares


def target_quantiles(edges: NDArray[np.float64], density: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """n lengths at the mid-quantiles of a histogram, linear inside a bin and none in an empty one."""
    levels = (np.arange(n) + 0.5) / n
    upper = density.cumsum()
    bins = np.searchsorted(upper, levels)
    inside = 1.0 - (upper[bins] - levels) / density[bins]
    quantiles: NDArray[np.float64] = edges[bins] + inside * np.diff(edges)[bins]
    return quantiles


@dataclass(frozen=True)
class Selection:
    """Answers that are kept of one group, in their order, and the length in tokens that each stands for."""

    index: NDArray[np.int64]
    targets: NDArray[np.float64]


def select(lengths: Lengths, targets: NDArray[np.float64]) -> Selection:
    """The answers closest to the targets, each used once; len(targets) <= len(lengths)."""
    cost = np.abs(lengths[None, :] - targets[:, None])
    wanted, chosen = linear_sum_assignment(cost)
    order = np.argsort(chosen)
    return Selection(chosen[order], targets[wanted[order]])


def match(groups: Mapping[str, Lengths], sizes: Mapping[str, int]) -> dict[str, Selection] | None:
    """What to keep per group, or None where the groups share no lengths at all."""
    edges, density = common_density(list(groups.values()))
    if density.sum() == 0:
        return None
    return {
        name: select(lengths, target_quantiles(edges, density, min(sizes[name], len(lengths))))
        for name, lengths in groups.items()
    }


def settle(
    groups: Mapping[str, Lengths], chosen: Mapping[str, Selection], tolerance: float, passes: int = 20
) -> dict[str, Selection]:
    """Exchange kept for left-out answers, one per group and pass, in groups outside the tolerance.

    Each exchange is the one that leaves the smallest `excess` over what all groups keep; of equal ones, that between
    the closest lengths. It stands for the same target.
    """
    found = dict(chosen)
    for _ in range(passes):
        kept = {name: groups[name][selection.index] for name, selection in found.items()}
        pooled = np.concatenate(list(kept.values()))
        better = {
            name: exchanged
            for name in sorted(outside(kept, tolerance))
            if (exchanged := _exchanged(groups[name], found[name], pooled)) is not None
        }
        if not better:
            return found
        found |= better
    return found


def _exchanged(lengths: Lengths, selection: Selection, pooled: Lengths) -> Selection | None:
    """The selection after its best exchange, or None where none brings it closer to the pooled lengths."""
    left = np.setdiff1d(np.arange(len(lengths)), selection.index)
    own = lengths[selection.index]
    best, least = None, max(excess(own, pooled))
    _, places = np.unique(own, return_index=True)
    _, others = np.unique(lengths[left], return_index=True)
    for place in places:
        for other in left[others]:
            tried = own.copy()
            tried[place] = lengths[other]
            distance = abs(int(lengths[other]) - int(own[place]))
            value = max(excess(tried, pooled))
            if value < least or (best is not None and value == least and distance < best[2]):
                best, least = (place, other, distance), value
    if best is None:
        return None
    index = selection.index.copy()
    index[best[0]] = best[1]
    order = np.argsort(index)
    return Selection(index[order], selection.targets[order])


def outside(groups: Mapping[str, Lengths], tolerance: float) -> set[str]:
    """Groups whose median or interquartile range differs from the pooled one by more than the tolerance (`excess`)."""
    pooled = np.concatenate(list(groups.values()))
    return {name for name, lengths in groups.items() if max(excess(lengths, pooled)) > tolerance}


def summarise(lengths: Lengths, pooled: Lengths) -> Summary:
    """Median, interquartile range and Kolmogorov-Smirnov distance of a group against the pooled lengths (all >= 1).

    The range is compared with at least one token, so that a pool without any spread has a relative range too.
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
    """By how much a group's median and interquartile range differ from the pooled ones, relative to these.

    One token of each difference is left out of account: lengths are whole tokens, and of short answers a tenth is less
    than one. The range is compared with at least one token.
    """
    own, reference = np.percentile(lengths, [25, 50, 75]), np.percentile(pooled, [25, 50, 75])
    spread = float(reference[2] - reference[0])
    median = max(0.0, abs(float(own[1] - reference[1])) - GRAIN) / float(reference[1])
    return median, max(0.0, abs(float(own[2] - own[0]) - spread) - GRAIN) / max(spread, 1.0)
