"""Two conditions of a file of cells over a pool of personas: what is compared, and why it cannot be."""

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
"""Columns that often tell rows of one cell apart; looked at first."""
MOST_VALUES = 20
"""A column with more values than this names rows, not settings."""


@dataclass(frozen=True)
class Comparison:
    """What is compared; a name is None, or the pool empty, where it was not given."""

    treated: str | None
    control: str | None
    personas: tuple[str, ...]
    """The pool, in the order given."""


@dataclass(frozen=True)
class Rule:
    """The numbers that the analysis tests and decides with."""

    margin: float
    """Difference of rates that the registered rule and the superiority test ask for."""
    equivalence: float
    """Difference of rates below which two conditions count as alike."""
    level: float
    """Level of the intervals."""
    resamples: int
    """Draws of each resampling estimator."""
    p_below: float
    """Bound of the registered p."""


def registered_rule(
    margin: float | None, equivalence: float | None, level: float | None, resamples: int | None
) -> Rule:
    """The registered study's numbers, but for those that are given."""
    leg = BehaviouralLeg()
    return Rule(
        margin=leg.margin if margin is None else margin,
        equivalence=Kill().leakage if equivalence is None else equivalence,
        level=leg.level if level is None else level,
        resamples=leg.resamples if resamples is None else resamples,
        p_below=leg.p_below,
    )


def name_problems(asked: Comparison, file: CellFile | None) -> list[Problem]:
    """Conditions and personas that are not given, not in the file, given twice, or without a cell."""
    conditions = file.conditions if file else []
    problems = []
    for option, name in (("--treated", asked.treated), ("--control", asked.control)):
        if not name:
            problems.append(Problem("comparison.TODO", option, "name a condition", _listed(conditions)))
        elif file and name not in conditions:
            problems.append(
                Problem(
                    "comparison.TODO",
                    option,
                    f"{file.table.path} has no condition `{name}`",
                    did_you_mean(name, conditions),
                )
            )
    if asked.treated and asked.treated == asked.control:
        problems.append(
            Problem(
                "comparison.TODO",
                "--control",
                f"{asked.treated} is compared with itself",
                "name two conditions",
            )
        )
    return problems + _pool_problems(asked, file)


def _pool_problems(asked: Comparison, file: CellFile | None) -> list[Problem]:
    option, known = "--bystanders", file.personas if file else []
    if not asked.personas:
        remedy = f"of those never trained on: {', '.join(known)}" if known else None
        return [Problem("comparison.TODO", option, "name the personas to pool", remedy)]
    problems = [
        Problem("comparison.TODO", option, f"`{name}` is named {asked.personas.count(name)} times")
        for name in dict.fromkeys(asked.personas)
        if asked.personas.count(name) > 1
    ]
    if file is None:
        return problems
    for name in dict.fromkeys(asked.personas):
        if name not in known:
            message = f"{file.table.path} has no persona `{name}`"
            problems.append(Problem("comparison.TODO", option, message, did_you_mean(name, known)))
            continue
        cells = file.cells.filter(pl.col("persona") == name)
        problems += [
            Problem("comparison.TODO", option, f"{file.table.path} has no cell of {name} in {condition}")
            for condition in (asked.treated, asked.control)
            if condition in file.conditions and condition not in set(cells["condition"])
        ]
    return problems


def compared(file: CellFile, asked: Comparison) -> pl.DataFrame:
    """The rows of both conditions over the pool, as `CellFile.cells`."""
    return file.cells.filter(
        pl.col("condition").is_in([asked.treated, asked.control]),
        pl.col("persona").is_in(list(asked.personas)),
    )


def duplicate_problems(file: CellFile, cells: pl.DataFrame) -> list[Problem]:
    """Cells that stand more than once: by the column that tells them apart, if there is one, or line by line."""
    repeated = cells.filter(pl.struct(KEYS).is_duplicated())
    if repeated.is_empty():
        return []
    apart = _telling_apart(file, repeated)
    if apart:
        first = repeated.sort(LINE).row(0, named=True)
        cell = " / ".join(first[key] for key in KEYS)
        values = "; ".join(f"{column} is {_values(repeated, column)}" for column in apart)
        remedy = " ".join(str(Where(column, str(repeated[column].drop_nulls()[0]))) for column in apart)
        message = f"{cell} and other cells stand more than once: {values}"
        return [
            Problem(
                "comparison.TODO", file.table.place(first[LINE]), message, f"choose, for instance `{remedy}`"
            )
        ]
    problems = []
    for group in repeated.sort(LINE).partition_by(KEYS, maintain_order=True):
        first_line, *lines = group[LINE].to_list()
        cell = " / ".join(group.row(0, named=True)[key] for key in KEYS)
        place = file.table.place(first_line)
        problems += [
            Problem("comparison.TODO", file.table.place(line), f"{cell} stands at {place} already")
            for line in lines
        ]
    return first_ones(file.table.path, problems)


def _telling_apart(file: CellFile, repeated: pl.DataFrame) -> list[str]:
    """The columns whose values make the repeated cells distinct; none where none do."""
    others = [column for column in file.table.columns if column not in (*KEYS, "hits", "total")]
    ordered = [name for name in USUAL_KEYS if name in others] + [
        name for name in others if name not in USUAL_KEYS and not name.endswith("hits")
    ]
    found: list[str] = []
    for column in ordered:
        few = 1 < repeated[column].n_unique() <= MOST_VALUES
        within = repeated.group_by([*KEYS, *found]).agg(pl.col(column).n_unique())[column].max()
        if few and isinstance(within, int) and within > 1:
            found.append(column)
        if found and not repeated.select(pl.struct([*KEYS, *found]).is_duplicated().any()).item():
            return found
    return []


def differing_settings(file: CellFile, cells: pl.DataFrame, asked: Comparison) -> list[str]:
    """Warnings for what differs between the conditions beside the condition: comparing lambda 1 with lambda 2."""
    warnings = []
    for column in USUAL_KEYS:
        if column not in file.table.columns:
            continue
        sides = [
            _values(cells.filter(pl.col("condition") == side), column)
            for side in (asked.treated, asked.control)
        ]
        if sides[0] != sides[1]:
            warnings.append(f"{column} is {sides[0]} in {asked.treated} but {sides[1]} in {asked.control}")
    return warnings


def _values(cells: pl.DataFrame, column: str) -> str:
    values = sorted("empty" if value is None else str(value) for value in cells[column].unique())
    return ", ".join(values)


def _listed(names: Sequence[str]) -> str | None:
    return f"there is {', '.join(names)}" if names else None
