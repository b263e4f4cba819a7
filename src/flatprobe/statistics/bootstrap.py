"""Resampling: weights in chunks, percentile intervals, and p-values that are never 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHUNK_VALUES = 2_000_000
"""Weights held in memory at once: 16 MB of float64 for any number of resamples."""
ROUNDING = 1e-12
"""Draws this close to the null count as ties, because means of counts are exact only up to rounding."""


def chunk_sizes(values_per_resample: int, resamples: int) -> Iterator[int]:
    """Chunk sizes that add up to `resamples`; no chunk holds more than `CHUNK_VALUES` values."""
    size = max(1, CHUNK_VALUES // values_per_resample)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def draw_weights(units: int, resamples: int, generator: np.random.Generator) -> Array:
    """Bootstrap weights, shape (resamples, units): multinomial counts of how often each unit was drawn.

    Counting drawn indices has the same distribution as `Generator.multinomial` and is ten times faster.
    """
    drawn = generator.integers(0, units, size=(resamples, units))
    drawn += units * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * units)
    return counts.reshape(resamples, units).astype(np.float64)


def multinomial_weights(units: int, resamples: int, generator: np.random.Generator) -> Iterator[Array]:
    """Yield blocks of bootstrap weights, shape (block, units); each row counts how often a unit was drawn."""
    for size in chunk_sizes(units, resamples):
        yield draw_weights(units, size, generator)


def one_sided_p(draws: Array, null: float) -> float:
    """p of H0: value <= null, (1 + #{draw <= null}) / (R + 1); undefined and tied draws count as <= null."""
    return (1.0 + int(np.sum(~(draws > null + ROUNDING)))) / (len(draws) + 1)


def equivalence_p(draws: Array, margin: float) -> float:
    """p of H0: |value| >= margin: the larger of the two one-sided ones."""
    return max(one_sided_p(draws, -margin), one_sided_p(-draws, -margin))


def two_sided_p(draws: Array, null: float = 0.0) -> float:
    """The registered p: min(1, 2 (1 + min(#{draw <= null}, #{draw >= null})) / (R + 1)); never 0.

    A NaN draw (statistic undefined on that resample) counts on both sides, which can only raise p. So does a draw
    that equals the null up to rounding.
    """
    return min(1.0, 2.0 * min(one_sided_p(draws, null), one_sided_p(-draws, -null)))


@dataclass(frozen=True)
class Percentile:
    """Summary of bootstrap draws; an end is None where undefined resamples reach its tail."""

    low: float | None
    high: float | None
    standard_error: float | None
    bias: float | None
    p_value: float
    undefined: int
    """Resamples on which the statistic was undefined."""


def percentile_summary(draws: Array, estimate: float, level: float) -> Percentile:
    """Equal-tailed percentile interval of `draws` (R,).

    Undefined draws (NaN) are never dropped: they count as minus infinity for the lower end and as plus infinity
    for the upper end. Standard error and bias use the defined draws.
    """
    undefined = np.isnan(draws)
    if undefined.any():
        low = float(np.quantile(np.where(undefined, -np.inf, draws), (1 - level) / 2, method="lower"))
        high = float(np.quantile(np.where(undefined, np.inf, draws), (1 + level) / 2, method="higher"))
    else:
        low, high = (float(end) for end in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
    defined = draws[~undefined]
    return Percentile(
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        standard_error=float(defined.std(ddof=1)) if len(defined) > 1 else None,
        bias=float(defined.mean() - estimate) if len(defined) else None,
        p_value=two_sided_p(draws),
        undefined=int(undefined.sum()),
    )
