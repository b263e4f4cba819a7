"""What is asked of an estimate, and the estimate that is a standard error with a t distribution."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.crossed import Spread, join_notes, t_inference
from flatprobe.statistics.margins import margin_problems, with_margins


@dataclass(frozen=True)
class Options:
    """How an estimate is to be made; refuses values that mean nothing, all of them at once."""

    resamples: int
    level: float = 0.95
    """Confidence level of the two-sided intervals."""
    margin: float | None = None
    """Of the superiority test, as a difference of rates in [0, 1]."""
    equivalence_margin: float | None = None
    """Of the equivalence test, as a difference of rates in (0, 1]."""

    def __post_init__(self) -> None:
        problems = margin_problems(self.margin, self.equivalence_margin)
        if self.resamples < 1:
            problems.append(
                Problem("inference.TODO", "resamples", f"{self.resamples} is too few", "at least 1")
            )
        if not 0 < self.level < 1:
            problems.append(
                Problem("inference.TODO", "level", f"{self.level} is not in (0, 1)", "give 0.95 for 95 %")
            )
        if problems:
            raise UserError(problems)


def by_t(blank: Estimate, mean: float, spread: Spread, options: Options) -> Estimate:
    """The blank estimate with interval, p-values and degrees of freedom from a standard error."""
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
