"""Simulated leakage studies: how often each estimator rejects, and how often its interval covers the truth.

Every number comes from `contrast_cells`, which also analyses real studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from flatprobe.simulation.cells import OWN_SCOPE, DrawnStudy, StudySize, draw
from flatprobe.simulation.truth import Truth
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.estimators import SCOPES, contrast_cells

SIGNIFICANCE = (0.05, 0.001)
"""Significance levels of the tests: the usual one and the registered one."""
INTERVAL_LEVEL = 0.95
"""Confidence level of the intervals."""
ESTIMATORS = tuple(OWN_SCOPE)
_COLUMNS = ("estimate", "standard_error", "p_value", "floor", "superiority_p", "covers", "covers_own")


@dataclass(frozen=True)
class LeakageCell:
    """One cell of the grid: a population and the size of its studies."""

    variance: str
    """Name of the regime of variance components."""
    truth: Truth
    size: StudySize
    resamples: int
    margin: float
    """Margin of the superiority tests."""

    @property
    def label(self) -> str:
        """The name from which, with the seed, the cell's random numbers are derived: independent of the grid."""
        return f"leakage/{self.variance}/{self.truth.difference:.6f}"


@dataclass(frozen=True)
class Share:
    """A share of the simulated studies with its Monte Carlo standard error."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class LeakageRow:
    """Results of one estimator in the studies of one cell."""

    variance: str
    truth: float
    """Population difference of rates."""
    estimator: str
    scope: str
    studies: int
    undefined: float
    """Share of studies without p-value; they count as not rejected."""
    rejected_05: Share | None
    """p < .05 against no difference: the size where `truth` is 0, the power elsewhere."""
    rejected_001: Share | None
    """p < .001; None where the smallest attainable p of these studies is not below it."""
    superior_05: Share | None
    """One-sided superiority p < .05: its size where `truth` is the margin. None where there is no such test."""
    coverage: Share | None
    """Share of the 95 % intervals that cover the population's difference; None for a test without interval."""
    own_coverage: Share | None
    """The same for the difference in the estimator's own scope."""
    bias: float
    """Mean of the estimates minus `truth`."""
    mean_standard_error: float | None
    """Mean of the reported standard errors."""
    standard_deviation: float
    """Standard deviation of the estimates: the correct standard error for the population."""

    def to_json(self) -> dict[str, object]:
        """The row as a JSON object."""
        return asdict(self)


def share(count: int, studies: int) -> Share:
    """`count / studies` (at least one study) with its standard error.

    The error uses (count + 1) / (studies + 2) (Laplace), so that 0 of 400 has an error above 0.
    """
    smoothed = (count + 1) / (studies + 2)
    return Share(count / studies, (smoothed * (1 - smoothed) / studies) ** 0.5)


def simulate_leakage(cell: LeakageCell, generator: np.random.Generator) -> Array:
    """One study by every estimator, shape (estimators, 7), columns as in `_COLUMNS`; NaN where there is no value."""
    drawn = draw(cell.truth, cell.size, generator)
    estimates = contrast_cells(
        drawn.cells,
        resamples=cell.resamples,
        seed=int(generator.integers(2**32)),
        level=INTERVAL_LEVEL,
        estimators=ESTIMATORS,
        margin=cell.margin,
    )
    by_name = {estimate.estimator: estimate for estimate in estimates}
    return np.array([_outcome(by_name[name], drawn) for name in ESTIMATORS])


def leakage_rows(cell: LeakageCell, outcomes_SEF: Array) -> list[LeakageRow]:
    """Summarise a cell's studies, one row per estimator; `outcomes_SEF` stacks the results of `simulate_leakage`."""
    return [_row(cell, name, outcomes_SEF[:, index]) for index, name in enumerate(ESTIMATORS)]


def _outcome(estimate: Estimate, drawn: DrawnStudy) -> list[float]:
    in_own_scope = drawn.truths[OWN_SCOPE[estimate.estimator]]
    numbers: Sequence[float | None] = (
        estimate.estimate,
        estimate.standard_error,
        estimate.p_value,
        estimate.smallest_attainable_p,
        estimate.superiority_p,
        _covers(estimate, drawn.truths["population"]),
        _covers(estimate, in_own_scope),
    )
    return [np.nan if number is None else float(number) for number in numbers]


def _covers(estimate: Estimate, truth: float) -> float | None:
    if estimate.ci_low is None or estimate.ci_high is None:
        return None
    return float(estimate.ci_low <= truth <= estimate.ci_high)


def _row(cell: LeakageCell, name: str, outcomes_SF: Array) -> LeakageRow:
    values = dict(zip(_COLUMNS, outcomes_SF.T, strict=True))
    studies, truth = len(outcomes_SF), cell.truth.difference
    errors = values["standard_error"][~np.isnan(values["standard_error"])]
    return LeakageRow(
        variance=cell.variance,
        truth=truth,
        estimator=name,
        scope=SCOPES[name],
        studies=studies,
        undefined=float(np.isnan(values["p_value"]).mean()),
        rejected_05=_below(values["p_value"], SIGNIFICANCE[0], values["floor"]),
        rejected_001=_below(values["p_value"], SIGNIFICANCE[1], values["floor"]),
        superior_05=_below(values["superiority_p"], SIGNIFICANCE[0]),
        coverage=_mean(values["covers"]),
        own_coverage=_mean(values["covers_own"]),
        bias=float(values["estimate"].mean() - truth),
        mean_standard_error=float(errors.mean()) if len(errors) else None,
        standard_deviation=float(values["estimate"].std(ddof=1)) if studies > 1 else 0.0,
    )


def _below(p_S: Array, significance: float, floor_S: Array | None = None) -> Share | None:
    """Share of all studies with p below the level; None where no study has a p, or no p can be that small."""
    unreachable = floor_S is not None and bool((floor_S >= significance).all())
    if unreachable or np.isnan(p_S).all():
        return None
    return share(int((p_S < significance).sum()), len(p_S))


def _mean(flags_S: Array) -> Share | None:
    """Share of true flags among the studies with a flag."""
    defined = flags_S[~np.isnan(flags_S)]
    return share(int(defined.sum()), len(defined)) if len(defined) else None
