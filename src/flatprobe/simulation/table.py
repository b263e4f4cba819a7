"""The simulation's rows as tables of text: shares of studies, their Monte Carlo standard errors in brackets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flatprobe.simulation.joint import VERDICTS, JointRow
from flatprobe.simulation.leakage import LeakageRow, Share

NOT_THERE = "–"
"""What does not exist: an interval of a test without one, a level that no p of this design can reach."""


class Table(NamedTuple):
    """Column names and rows of text, as long as the names."""

    columns: list[str]
    rows: list[list[str]]
    words: int
    """How many columns, from the left, hold words; the others hold numbers."""


def leakage_table(rows: Sequence[LeakageRow]) -> Table:
    """Every number of the leakage studies, a line per regime, truth and estimator; differences in pp."""
    columns = [
        "variance", "truth", "estimator", "p < .05", "p < .001", "superior", "covers truth", "covers own", "bias",
        "SE", "SD", "no p",
    ]  # fmt: skip
    lines = [
        [
            row.variance, points(row.truth), row.estimator, shown(row.rejected_05), shown(row.rejected_001),
            shown(row.superior_05), shown(row.coverage), shown(row.own_coverage), points(row.bias, 2),
            NOT_THERE if row.mean_standard_error is None else points(row.mean_standard_error),
            points(row.standard_deviation), f"{row.undefined:.3f}",
        ]
        for row in rows
    ]  # fmt: skip
    return Table(columns, lines, words=3)


def joint_table(rows: Sequence[JointRow]) -> Table:
    """Share of each verdict and of each leg that passes, a line per regime and truth."""
    columns = ["variance", "true", *VERDICTS, "geometric leg", "behavioural leg", "geometry", "leakage pp"]
    lines = [
        [
            row.variance, row.truth, *(shown(row.verdicts[name]) for name in VERDICTS), shown(row.geometric_leg),
            shown(row.behavioural_leg), f"{round(row.mean_geometry, 3) + 0.0:+.3f}", points(row.mean_leakage),
        ]
        for row in rows
    ]  # fmt: skip
    return Table(columns, lines, words=2)


def by_variance(
    rows: Sequence[LeakageRow],
    truth: float,
    values: Sequence[tuple[str, Callable[[LeakageRow], Share | None]]],
) -> Table:
    """One truth: a line per estimator, and per regime a column for each of the named values."""
    chosen = {(row.variance, row.estimator): row for row in rows if row.truth == truth}
    variances = list(dict.fromkeys(variance for variance, _ in chosen))
    columns = ["estimator", *(f"{variance}: {name}" for variance in variances for name, _ in values)]
    lines = [
        [
            estimator,
            *(shown(value(chosen[variance, estimator])) for variance in variances for _, value in values),
        ]
        for estimator in dict.fromkeys(estimator for _, estimator in chosen)
    ]
    return Table(columns, lines, words=1)


def markdown(table: Table) -> str:
    """The table in Markdown, numbers flush right."""
    rule = ["---"] * table.words + ["--:"] * (len(table.columns) - table.words)
    cells = [table.columns, rule, *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def shown(value: Share | None) -> str:
    """`.541 (.012)`."""
    if value is None:
        return NOT_THERE
    return f"{_fraction(value.value)} ({_fraction(value.error)})"


def points(value: float, digits: int = 1) -> str:
    """A difference of rates in percentage points, without a negative zero."""
    return f"{round(100 * value, digits) + 0.0:.{digits}f}"


def _fraction(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
