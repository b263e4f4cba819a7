"""Several tests at once: Holm, single-step max-T, and the intersection-union test of a conjunction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import ROUNDING, Array


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise UserError.one("multiplicity.probability", "p_values", f"{p_value} is not a probability")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def conjunction_p(p_values: Sequence[float | None]) -> float | None:
    """p of the intersection-union test, the largest p (Berger 1982); None if any p is unknown."""
    known = [p_value for p_value in p_values if p_value is not None]
    if len(known) < len(p_values) or not known:
        return None
    return max(known)


def max_t(estimates_K: Array, draws_RK: Array, names: Sequence[str] | None = None) -> Array:
    """Two-sided p-values (K,) of K statistics, adjusted for multiple testing.

    Single-step max-T (Westfall and Young 1993). Draws are joint: one row is one resample. They are centred at the
    estimates, which imposes the null, and divided by their own standard deviation. p_k = (1 + #{max over all
    statistics of |t*| >= |t_k|}) / (R + 1), never 0. A resample with an undefined statistic (NaN) counts against
    all. Raises UserError with the statistics (by `names`, else by position) that do not vary.
    """
    if draws_RK.ndim != 2 or len(draws_RK) < 2 or draws_RK.shape[1:] != np.shape(estimates_K):
        raise ValueError(f"draws {draws_RK.shape} do not fit estimates {np.shape(estimates_K)}")
    undefined = np.isnan(draws_RK)
    scale_K = np.array([column[~skip].std(ddof=1) if (~skip).sum() > 1 else 0.0
                        for column, skip in zip(draws_RK.T, undefined.T, strict=True)])  # fmt: skip
    problems = [
        Problem(
            "multiplicity.no_variation",
            f"max-T: {name}",
            "does not vary over the resamples",
            "leave it out of the family",
        )
        for name, scale in zip(names or range(len(scale_K)), scale_K, strict=True)
        if not scale > ROUNDING
    ]
    if problems:
        raise UserError(problems)
    t_K = np.abs(estimates_K) / scale_K
    largest_R = np.where(undefined, np.inf, np.abs(draws_RK - estimates_K) / scale_K).max(axis=1)
    reached_K = (largest_R[:, None] >= t_K - ROUNDING).sum(axis=0)
    adjusted: Array = (1.0 + reached_K) / (len(draws_RK) + 1)
    return adjusted
