"""Tests against a margin from an estimate, its standard error and its degrees of freedom."""

from __future__ import annotations

from dataclasses import replace

from scipy import special

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.crossed import ZERO


def superiority(estimate: Estimate, margin: float) -> float | None:
    """One-sided p of H0: difference <= margin, from the estimate's standard error and df.

    None where the estimate has no standard error, no df, or does not vary.
    """
    numbers = _numbers(estimate)
    if numbers is None:
        return None
    value, error, df = numbers
    return float(special.stdtr(df, (margin - value) / error))


def tost(estimate: Estimate, margin: float) -> float | None:
    """p of H0: |difference| >= margin, by two one-sided t tests (Schuirmann 1987): the larger of the two.

    Small p supports equivalence within the margin. None as for `superiority`.
    """
    if not margin > 0:
        raise UserError.one(
            "margins.TODO", "margin", f"{margin} leaves no room for equivalence", "give a positive margin"
        )
    numbers = _numbers(estimate)
    if numbers is None:
        return None
    value, error, df = numbers
    return float(special.stdtr(df, (abs(value) - margin) / error))


def with_margins(estimate: Estimate, margin: float | None, equivalence_margin: float | None) -> Estimate:
    """The estimate with its margins and, where it has a standard error and df, the p-values against them."""
    if margin is None and equivalence_margin is None:
        return estimate
    return replace(
        estimate,
        margin=margin,
        superiority_p=None if margin is None else superiority(estimate, margin),
        equivalence_margin=equivalence_margin,
        equivalence_p=None if equivalence_margin is None else tost(estimate, equivalence_margin),
    )


def margin_problems(margin: float | None, equivalence_margin: float | None) -> list[Problem]:
    """What is wrong with margins for a difference of rates."""
    problems = []
    if margin is not None and not 0 <= margin <= 1:
        problems.append(
            Problem("margins.TODO", "margin", f"{margin} is not a difference of rates", "give 0.15 for 15 pp")
        )
    if equivalence_margin is not None and not 0 < equivalence_margin <= 1:
        message = f"{equivalence_margin} leaves no room for equivalence, or is above 1"
        problems.append(Problem("margins.TODO", "equivalence margin", message, "give 0.05 for 5 pp"))
    return problems


def _numbers(estimate: Estimate) -> tuple[float, float, float] | None:
    value, error, df = estimate.estimate, estimate.standard_error, estimate.df
    if value is None or error is None or df is None or error <= ZERO:
        return None
    return value, error, df
