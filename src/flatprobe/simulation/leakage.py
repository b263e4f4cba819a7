"""Simulated leakage studies: how often each estimator rejects, and how often its interval holds the truth.

Every number comes from `contrast_cells`, the function that real studies are analysed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from flatprobe.simulation.cells import OWN_SCOPE, Design, Drawn, draw
from flatprobe.simulation.truth import Truth
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.estimators import SCOPES, contrast_cells

LEVELS = (0.05, 0.001)
"""Levels of the tests: the usual one and the registered one."""
ESTIMATORS = tuple(OWN_SCOPE)
_COLUMNS = ("estimate", "standard_error", "p_value", "floor", "superiority_p", "covers", "covers_own")


@dataclass(frozen=True)
class LeakageCell:
    """One cell of the grid: a population and a design."""

    variance: str
    """Name of the regime of variance components."""
    truth: Truth
    design: Design
    resamples: int
    margin: float
    """Margin of the superiority tests."""

    @property
    def label(self) -> str:
        """What the cell's random numbers are derived from, beside the seed: never its place in the grid."""
        return f"leakage/{self.variance}/{self.truth.difference:.6f}"


@dataclass(frozen=True)
class Share:
    """A share of the simulated studies with its Monte Carlo standard error."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class LeakageRow:
    """What one estimator did in the studies of one cell."""

    variance: str
    truth: float
    """Population difference of rates."""
    estimator: str
    scope: str
    studies: int
    undefined: float
    """Share of studies without p-value; counted as not rejected."""
    rejected_05: Share | None
    """p < .05 against no difference: the size where `truth` is 0, the power elsewhere."""
    rejected_001: Share | None
    """p < .001; None where this design's smallest attainable p cannot be below it."""
    superior_05: Share | None
    """One-sided superiority p < .05: its size where `truth` is the margin. None where there is no such test."""
    coverage: Share | None
    """Share of the 95 % intervals that hold the population's difference; None for a test without interval."""
    own_coverage: Share | None
    """Likewise for the truth in the estimator's own scope."""
    bias: float
    """Mean of the estimates minus `truth`."""
    mean_standard_error: float | None
    """Mean of the standard errors that the estimator reports."""
    standard_deviation: float
    """Standard deviation of the estimates: what the standard error would have to be for the population."""

    def to_json(self) -> dict[str, object]:
        """The row as a JSON object."""
        return asdict(self)


def share(count: int, studies: int) -> Share:
    """`count / studies` (at least one study) with its standard error.

    The error uses (count + 1) / (studies + 2) (Laplace), so that 0 of 400 is not claimed to be exactly 0.
    """
    smoothed = (count + 1) / (studies + 2)
    return Share(count / studies, (smoothed * (1 - smoothed) / studies) ** 0.5)


def simulate_leakage(cell: LeakageCell, generator: np.random.Generator) -> Array:
    """One study by every estimator, shape (estimators, 7): see `leakage_rows`; NaN is what does not exist."""
    drawn = draw(cell.truth, cell.design, generator)
    estimates = contrast_cells(
        drawn.cells,
        resamples=cell.resamples,
        seed=int(generator.integers(2**32)),
        estimators=ESTIMATORS,
        margin=cell.margin,
    )
    by_name = {estimate.estimator: estimate for estimate in estimates}
    return np.array([_outcome(by_name[name], drawn) for name in ESTIMATORS])


def leakage_rows(cell: LeakageCell, outcomes_SEF: Array) -> list[LeakageRow]:
    """Sum up a cell's studies, one row per estimator; `outcomes_SEF` stacks what `simulate_leakage` returns."""
    return [_row(cell, name, outcomes_SEF[:, index]) for index, name in enumerate(ESTIMATORS)]


def _outcome(estimate: Estimate, drawn: Drawn) -> list[float]:
    own = drawn.truths[OWN_SCOPE[estimate.estimator]]
    numbers: Sequence[float | None] = (
        estimate.estimate,
        estimate.standard_error,
        estimate.p_value,
        estimate.smallest_attainable_p,
        estimate.superiority_p,
        _covers(estimate, drawn.truths["population"]),
        _covers(estimate, own),
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
        rejected_05=_below(values["p_value"], LEVELS[0], values["floor"]),
        rejected_001=_below(values["p_value"], LEVELS[1], values["floor"]),
        superior_05=_below(values["superiority_p"], LEVELS[0]),
        coverage=_mean(values["covers"]),
        own_coverage=_mean(values["covers_own"]),
        bias=float(values["estimate"].mean() - truth),
        mean_standard_error=float(errors.mean()) if len(errors) else None,
        standard_deviation=float(values["estimate"].std(ddof=1)) if studies > 1 else 0.0,
    )


def _below(p_S: Array, level: float, floor_S: Array | None = None) -> Share | None:
    """Share of all studies with p below the level; None where no study has p, or none could reach the level."""
    unreachable = floor_S is not None and bool((floor_S >= level).all())
    if unreachable or np.isnan(p_S).all():
        return None
    return share(int((p_S < level).sum()), len(p_S))


def _mean(flags_S: Array) -> Share | None:
    """Share of the studies that have the flag at all."""
    there = flags_S[~np.isnan(flags_S)]
    return share(int(there.sum()), len(there)) if len(there) else None
