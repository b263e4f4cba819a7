"""A comparison of two conditions over a pool of personas, and its problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from flatprobe.config.suggest import did_you_mean
from flatprobe.counts.cell_files import KEYS, CellFile, Where
from flatprobe.counts.text_table import LINE, first_ones
from flatprobe.errors import Problem
from flatprobe.study.decision_schema import BehaviouralLeg, Kill

USUAL_KEYS = ("coupled", "lambda", "seed")
"""Columns that often distinguish rows of one cell; tried first."""
MOST_VALUES = 20
"""A column with more values than this identifies rows, not settings."""


@dataclass(frozen=True)
class Comparison:
    """The conditions and the pool; a condition that was not given is None, a pool that was not given is empty."""

    treated: str | None
    control: str | None
    personas: tuple[str, ...]
    """The pool, in the order given."""


@dataclass(frozen=True)
class Rule:
    """The numbers that the analysis tests and decides with."""

    margin: float
    """Difference of rates required by the registered rule and the superiority test."""
    equivalence: float
    """Difference of rates below which two conditions count as equivalent."""
    level: float
    """Level of the intervals."""
    resamples: int
    """Draws of each resampling estimator."""
    p_below: float
    """The registered rule requires p below this."""


def registered_rule(
    margin: float | None, equivalence: float | None, level: float | None, resamples: int | None
) -> Rule:
    """The registered study's numbers, replaced by those that are given."""
    leg = BehaviouralLeg()
    return Rule(
        margin=leg.margin if margin is None else margin,
        equivalence=Kill().leakage if equivalence is None else equivalence,
        level=leg.level if level is None else level,
        resamples=leg.resamples if resamples is None else resamples,
        p_below=leg.p_below,
    )


def name_problems(comparison: Comparison, file: CellFile | None) -> list[Problem]:
    """Problems of the names: not given, not in the file, given twice, or without a cell."""
    conditions = file.conditions if file else []
    problems = []
    for option, name in (("--treated", comparison.treated), ("--control", comparison.control)):
        if not name:
            problems.append(Problem("options.condition", option, "name a condition", _listed(conditions)))
        elif file and name not in conditions:
            problems.append(
                Problem(
                    "cells.missing_condition",
                    option,
                    f"{file.table.path} has no condition `{name}`",
                    did_you_mean(name, conditions),
                )
            )
    if comparison.treated and comparison.treated == comparison.control:
        problems.append(
            Problem(
                "cells.same_condition",
                "--control",
                f"{comparison.treated} is compared with itself",
                "name two conditions",
            )
        )
    return problems + _pool_problems(comparison, file)


def _pool_problems(comparison: Comparison, file: CellFile | None) -> list[Problem]:
    option, in_file = "--bystanders", file.personas if file else []
    if not comparison.personas:
        remedy = f"choose from those never trained on: {', '.join(in_file)}" if in_file else None
        return [Problem("options.bystanders", option, "name the personas to pool", remedy)]
    problems = [
        Problem("cells.pool", option, f"`{name}` is named {comparison.personas.count(name)} times")
        for name in dict.fromkeys(comparison.personas)
        if comparison.personas.count(name) > 1
    ]
    if file is None:
        return problems
    for name in dict.fromkeys(comparison.personas):
        if name not in in_file:
            message = f"{file.table.path} has no persona `{name}`"
            problems.append(Problem("cells.missing_persona", option, message, did_you_mean(name, in_file)))
            continue
        cells = file.cells.filter(pl.col("persona") == name)
        problems += [
            Problem("cells.missing_persona", option, f"{file.table.path} has no cell of {name} in {condition}")
            for condition in (comparison.treated, comparison.control)
            if condition in file.conditions and condition not in set(cells["condition"])
        ]
    return problems


def compared(file: CellFile, comparison: Comparison) -> pl.DataFrame:
    """The rows of both conditions over the pool, as `CellFile.cells`."""
    return file.cells.filter(
        pl.col("condition").is_in([comparison.treated, comparison.control]),
        pl.col("persona").is_in(list(comparison.personas)),
    )


def duplicate_problems(file: CellFile, cells: pl.DataFrame) -> list[Problem]:
    """Cells that appear more than once: one problem with the columns that distinguish them, else one per line."""
    repeated = cells.filter(pl.struct(KEYS).is_duplicated())
    if repeated.is_empty():
        return []
    columns = _distinguishing_columns(file, repeated)
    if columns:
        first = repeated.sort(LINE).row(0, named=True)
        cell = " / ".join(first[key] for key in KEYS)
        values = "; ".join(f"{column} is {_values(repeated, column)}" for column in columns)
        remedy = " ".join(str(Where(column, str(repeated[column].drop_nulls()[0]))) for column in columns)
        message = f"{cell} and other cells appear more than once: {values}"
        return [
            Problem(
                "cells.duplicate", file.table.place(first[LINE]), message, f"select one, for instance with `{remedy}`"
            )
        ]
    problems = []
    for group in repeated.sort(LINE).partition_by(KEYS, maintain_order=True):
        first_line, *lines = group[LINE].to_list()
        cell = " / ".join(group.row(0, named=True)[key] for key in KEYS)
        place = file.table.place(first_line)
        problems += [
            Problem("cells.duplicate", file.table.place(line), f"{cell} is already at {place}") for line in lines
        ]
    return first_ones(file.table.path, problems)


def _distinguishing_columns(file: CellFile, repeated: pl.DataFrame) -> list[str]:
    """The columns that make the repeated cells distinct; empty if no columns do."""
    others = [column for column in file.table.columns if column not in (*KEYS, "hits", "total")]
    ordered = [name for name in USUAL_KEYS if name in others] + [
        name for name in others if name not in USUAL_KEYS and not name.endswith("hits")
    ]
    chosen: list[str] = []
    for column in ordered:
        few = 1 < repeated[column].n_unique() <= MOST_VALUES
        within = repeated.group_by([*KEYS, *chosen]).agg(pl.col(column).n_unique())[column].max()
        if few and isinstance(within, int) and within > 1:
            chosen.append(column)
        if chosen and not repeated.select(pl.struct([*KEYS, *chosen]).is_duplicated().any()).item():
            return chosen
    return []


def differing_settings(file: CellFile, cells: pl.DataFrame, comparison: Comparison) -> list[str]:
    """Warnings about other settings that differ between the conditions, such as lambda 1 against lambda 2."""
    warnings = []
    for column in USUAL_KEYS:
        if column not in file.table.columns:
            continue
        sides = [
            _values(cells.filter(pl.col("condition") == side), column)
            for side in (comparison.treated, comparison.control)
        ]
        if sides[0] != sides[1]:
            warnings.append(f"{column} is {sides[0]} in {comparison.treated} but {sides[1]} in {comparison.control}")
    return warnings


def _values(cells: pl.DataFrame, column: str) -> str:
    values = sorted("empty" if value is None else str(value) for value in cells[column].unique())
    return ", ".join(values)


def _listed(names: Sequence[str]) -> str | None:
    return f"the file has {', '.join(names)}" if names else None
