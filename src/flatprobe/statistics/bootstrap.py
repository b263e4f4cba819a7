"""Resampling: weights in chunks, percentile intervals, and the registered p-value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHUNK_VALUES = 2_000_000
"""Weights held at once: 16 MB of float64, whatever the number of resamples."""
ROUNDING = 1e-12
"""Draws this close to the null are ties: means of counts are exact only up to rounding."""


def multinomial_weights(units: int, resamples: int, generator: np.random.Generator) -> Iterator[Array]:
    """Yield blocks of bootstrap weights, shape (block, units); each row counts how often a unit was drawn."""
    block = max(1, CHUNK_VALUES // units)
    shares = np.full(units, 1.0 / units)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield generator.multinomial(units, shares, size=size).astype(np.float64)


def two_sided_p(draws: Array, null: float = 0.0) -> float:
    """The registered p: min(1, 2 (1 + min(#{draw <= null}, #{draw >= null})) / (R + 1)); never 0.

    A NaN draw (the statistic was undefined on that resample) counts on both sides, which can only raise p; so
    does a draw that equals the null up to rounding.
    """
    below = int(np.sum(~(draws > null + ROUNDING)))
    above = int(np.sum(~(draws < null - ROUNDING)))
    return min(1.0, 2.0 * (1 + min(below, above)) / (len(draws) + 1))


@dataclass(frozen=True)
class Percentile:
    """Summary of bootstrap draws; ends are None where undefined resamples reach into the tail."""

    low: float | None
    high: float | None
    standard_error: float | None
    bias: float | None
    p_value: float
    undefined: int
    """Resamples on which the statistic was undefined."""


def percentile_summary(draws: Array, estimate: float, level: float) -> Percentile:
    """Equal-tailed percentile interval of `draws` (R,).

    Undefined draws (NaN) are never dropped from the interval: they are taken as minus infinity for the lower
    end and as plus infinity for the upper one. Standard error and bias use the defined draws.
    """
    undefined = np.isnan(draws)
    low = float(np.quantile(np.where(undefined, -np.inf, draws), (1 - level) / 2, method="lower"))
    high = float(np.quantile(np.where(undefined, np.inf, draws), (1 + level) / 2, method="higher"))
    if not undefined.any():
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
