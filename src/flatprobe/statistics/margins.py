"""Tests against a margin, and the correction for several of them."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from flatprobe.errors import UserError
from flatprobe.statistics.crossed import ZERO
from flatprobe.statistics.estimands import Estimate


def superiority(estimate: Estimate, margin: float) -> float | None:
    """One-sided p of H0: difference <= margin, from the estimate's standard error and df.

    None where the estimate has no standard error, no df, or does not vary.
    """
    numbers = _numbers(estimate)
    if numbers is None:
        return None
    value, error, df = numbers
    return float(stats.t.sf((value - margin) / error, df))


def tost(estimate: Estimate, margin: float) -> float | None:
    """p of H0: |difference| >= margin, by two one-sided t tests (Schuirmann 1987): the larger of the two.

    Small p supports equivalence within the margin. None as for `superiority`.
    """
    if margin <= 0:
        raise UserError.one("margin", f"{margin} leaves no room for equivalence", "give a positive margin")
    numbers = _numbers(estimate)
    if numbers is None:
        return None
    value, error, df = numbers
    return max(
        float(stats.t.sf((value + margin) / error, df)), float(stats.t.cdf((value - margin) / error, df))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise UserError.one("p_values", f"{p_value} is not a probability")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _numbers(estimate: Estimate) -> tuple[float, float, float] | None:
    value, error, df = estimate.estimate, estimate.standard_error, estimate.df
    if value is None or error is None or df is None or error <= ZERO:
        return None
    return value, error, df
