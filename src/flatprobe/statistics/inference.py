"""From a standard error to an inference: t interval and p, and tests against margins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scipy import special

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import Estimate

ZERO = 1e-12
"""Standard errors of rates below this are rounding, not variation."""


@dataclass(frozen=True)
class Options:
    """Options of an estimator. Raises UserError with every value that makes no sense."""

    resamples: int
    level: float
    """Confidence level of the two-sided intervals."""
    margin: float | None = None
    """Margin of the superiority test: a difference of rates in [0, 1]."""
    equivalence_margin: float | None = None
    """Margin of the equivalence test: a difference of rates in (0, 1]."""

    def __post_init__(self) -> None:
        problems = margin_problems(self.margin, self.equivalence_margin)
        if self.resamples < 1:
            problems.append(Problem("options.resamples", "resamples", f"{self.resamples} is too few", "at least 1"))
        if not 0 < self.level < 1:
            problems.append(Problem("options.level", "level", f"{self.level} is not in (0, 1)", "give 0.95 for 95 %"))
        if problems:
            raise UserError(problems)


@dataclass(frozen=True)
class Spread:
    """A standard error with the degrees of freedom of its t distribution; the note names a fall-back."""

    standard_error: float
    df: float
    note: str | None = None


@dataclass(frozen=True)
class TInference:
    """Two-sided t inference. Where nothing varies, all numbers are None and the note says so."""

    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    note: str | None


def t_inference(estimate: float, spread: Spread, level: float) -> TInference:
    """Interval and p-value of `estimate` against 0. A standard error of 0 gives neither."""
    if spread.standard_error <= ZERO:
        note = "no variation: neither interval nor p-value exists"
        return TInference(None, None, None, join_notes(spread.note, note))
    half = float(special.stdtrit(spread.df, (1 + level) / 2)) * spread.standard_error
    p_value = min(1.0, 2 * float(special.stdtr(spread.df, -abs(estimate) / spread.standard_error)))
    return TInference(estimate - half, estimate + half, p_value, spread.note)


def join_notes(*notes: str | None) -> str | None:
    """The non-empty notes, joined by semicolons; None if there is none."""
    return "; ".join(note for note in notes if note) or None


def one_way(means: Array) -> Spread:
    """Standard error of the mean of independent unit means (n,), with n - 1 df."""
    return Spread(float(means.std(ddof=1)) / len(means) ** 0.5, float(len(means) - 1))


def by_t(blank: Estimate, mean: float, spread: Spread, options: Options) -> Estimate:
    """Fill a blank estimate: mean, interval, p-values and degrees of freedom from a standard error."""
    inference = t_inference(mean, spread, options.level)
    estimate = replace(
        blank,
        estimate=mean,
        standard_error=spread.standard_error,
        ci_low=inference.ci_low,
        ci_high=inference.ci_high,
        p_value=inference.p_value,
        df=spread.df,
        note=join_notes(blank.note, inference.note),
    )
    return with_margins(estimate, options.margin, options.equivalence_margin)


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
            "options.equivalence_margin", "margin", f"{margin} leaves no room for equivalence", "give a positive margin"
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
    """Problems with the margins of a difference of rates."""
    problems = []
    if margin is not None and not 0 <= margin <= 1:
        problems.append(
            Problem("options.margin", "margin", f"{margin} is not a difference of rates", "give 0.15 for 15 pp")
        )
    if equivalence_margin is not None and not 0 < equivalence_margin <= 1:
        message = f"{equivalence_margin} leaves no room for equivalence, or is above 1"
        problems.append(Problem("options.equivalence_margin", "equivalence margin", message, "give 0.05 for 5 pp"))
    return problems


def _numbers(estimate: Estimate) -> tuple[float, float, float] | None:
    value, error, df = estimate.estimate, estimate.standard_error, estimate.df
    if value is None or error is None or df is None or error <= ZERO:
        return None
    return value, error, df
