"""The simulation's rows as text tables: shares of studies, with Monte Carlo standard errors in brackets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flatprobe.simulation.joint import VERDICTS, JointRow
from flatprobe.simulation.leakage import LeakageRow, Share

ABSENT = "–"
"""Shown for a number that does not exist: coverage of a test without interval, or a level that no p-value can reach."""


class Table(NamedTuple):
    """Column names, and rows of as many texts."""

    columns: list[str]
    rows: list[list[str]]
    words: int
    """Number of leading columns that hold words; the others hold numbers."""


def leakage_table(rows: Sequence[LeakageRow]) -> Table:
    """Every number of the leakage studies, one line per regime, truth and estimator; differences in pp."""
    columns: dict[str, Callable[[LeakageRow], str]] = {
        "variance": lambda row: row.variance,
        "truth": lambda row: points(row.truth),
        "estimator": lambda row: row.estimator,
        "p < .05": lambda row: share_text(row.rejected_05),
        "p < .001": lambda row: share_text(row.rejected_001),
        "superior": lambda row: share_text(row.superior_05),
        "covers truth": lambda row: share_text(row.coverage),
        "covers own": lambda row: share_text(row.own_coverage),
        "bias": lambda row: points(row.bias, 2),
        "SE": lambda row: ABSENT if row.mean_standard_error is None else points(row.mean_standard_error),
        "SD": lambda row: points(row.standard_deviation),
        "no p": lambda row: f"{row.undefined:.3f}",
    }
    return Table(list(columns), [[text(row) for text in columns.values()] for row in rows], words=3)


def joint_table(rows: Sequence[JointRow]) -> Table:
    """Share of each verdict and of each passing leg, one line per regime and truth."""
    columns = ["variance", "true", *VERDICTS, "geometric leg", "behavioural leg", "geometry", "leakage pp"]
    lines = [
        [
            row.variance,
            row.truth,
            *(share_text(row.verdicts[name]) for name in VERDICTS),
            share_text(row.geometric_leg),
            share_text(row.behavioural_leg),
            f"{round(row.mean_geometry, 3) + 0.0:+.3f}",
            points(row.mean_leakage),
        ]
        for row in rows
    ]
    return Table(columns, lines, words=2)


def by_variance(
    rows: Sequence[LeakageRow], truth: float, values: Sequence[tuple[str, Callable[[LeakageRow], Share | None]]]
) -> Table:
    """For one truth: one line per estimator, and per regime one column for each (name, value)."""
    by_key = {(row.variance, row.estimator): row for row in rows if row.truth == truth}
    variances = list(dict.fromkeys(variance for variance, _ in by_key))
    columns = ["estimator", *(f"{variance}: {name}" for variance in variances for name, _ in values)]
    lines = [
        [estimator, *(share_text(value(by_key[variance, estimator])) for variance in variances for _, value in values)]
        for estimator in dict.fromkeys(estimator for _, estimator in by_key)
    ]
    return Table(columns, lines, words=1)


def markdown(table: Table) -> str:
    """The table in Markdown, numbers aligned right."""
    rule = ["---"] * table.words + ["--:"] * (len(table.columns) - table.words)
    cells = [table.columns, rule, *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def share_text(value: Share | None) -> str:
    """A share with its error: `.541 (.012)`."""
    if value is None:
        return ABSENT
    return f"{_fraction(value.value)} ({_fraction(value.error)})"


def points(value: float, digits: int = 1) -> str:
    """A difference of rates in percentage points, without a negative zero."""
    return f"{round(100 * value, digits) + 0.0:.{digits}f}"


def _fraction(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
