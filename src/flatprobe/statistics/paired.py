"""Counts of two conditions, joined cell by cell, with everything that is wrong with them refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import Array

KEYS = ("condition", "persona", "question_id")
COLUMNS = (*KEYS, "hits", "total")
PLACE = "leakage cells"


@dataclass(frozen=True)
class PairedCells:
    """Cells that both conditions have, one entry per (persona, question), personas in the order given."""

    personas: tuple[str, ...]
    questions: tuple[str, ...]
    hits_treated: NDArray[np.int64]
    total_treated: NDArray[np.int64]
    hits_control: NDArray[np.int64]
    total_control: NDArray[np.int64]
    missing: int
    """Cells of the full persona-by-question table that one condition or both lack."""

    @property
    def differences(self) -> Array:
        """Treated rate minus control rate per paired cell, shape (cells,)."""
        rates: Array = self.hits_treated / self.total_treated - self.hits_control / self.total_control
        return rates

    @property
    def d_PQ(self) -> Array | None:
        """The differences as a persona-by-question table; None unless every cell is there."""
        if self.missing:
            return None
        return self.differences.reshape(len(self.personas), len(self.questions))


def pair_cells(cells: pl.DataFrame, treated: str, control: str, personas: Sequence[str]) -> PairedCells:
    """Join the two conditions' counts on (persona, question).

    Raises UserError, with every problem found, for absent columns, an empty or repeating pool, duplicate
    cells, impossible counts, and a condition or persona without any cell.
    """
    absent = [column for column in COLUMNS if column not in cells.columns]
    if absent:
        raise UserError.one(
            PLACE, f"columns {', '.join(absent)} are missing", f"needed: {', '.join(COLUMNS)}"
        )
    if not personas or len(set(personas)) != len(personas):
        raise UserError.one(
            "personas", "the pool is empty or names a persona twice", "name each bystander once"
        )
    if treated == control:
        raise UserError.one("condition", f"{treated} is compared with itself", "name two conditions")
    used = cells.filter(
        pl.col("condition").is_in([treated, control]), pl.col("persona").is_in(list(personas))
    )
    problems = _problems(used, treated, control, personas)
    if problems:
        raise UserError(problems)
    return _join(used, treated, control, tuple(personas))


def _problems(used: pl.DataFrame, treated: str, control: str, personas: Sequence[str]) -> list[Problem]:
    problems = []
    for condition in (treated, control):
        present = set(used.filter(pl.col("condition") == condition)["persona"])
        absent = [persona for persona in personas if persona not in present]
        if absent:
            problems.append(
                Problem(f"{PLACE}: {condition}", f"no cell of {', '.join(absent)}", "sample them first")
            )
    for row in (
        used.filter(pl.struct(KEYS).is_duplicated()).unique(KEYS, maintain_order=True).iter_rows(named=True)
    ):
        remedy = "give one row per condition, persona and question: filter one seed and one lambda"
        problems.append(Problem(_place(row), "the cell stands more than once", remedy))
    counts = pl.col("hits").is_null() | pl.col("total").is_null() | (pl.col("total") < 1)
    impossible = used.filter(counts | (pl.col("hits") < 0) | (pl.col("hits") > pl.col("total")))
    for row in impossible.iter_rows(named=True):
        problems.append(
            Problem(_place(row), f"{row['hits']} hits of {row['total']} completions is impossible")
        )
    return problems


def _place(row: dict[str, object]) -> str:
    return f"{PLACE}: " + " / ".join(str(row[key]) for key in KEYS)


def _join(used: pl.DataFrame, treated: str, control: str, personas: tuple[str, ...]) -> PairedCells:
    sides = [
        used.filter(pl.col("condition") == condition).drop("condition") for condition in (treated, control)
    ]
    questions = tuple(sorted(used["question_id"].unique().to_list()))
    order = {persona: rank for rank, persona in enumerate(personas)}
    joined = (
        sides[0]
        .join(sides[1], on=["persona", "question_id"], suffix="_control")
        .sort(pl.col("persona").replace_strict(order, return_dtype=pl.Int64), "question_id")
    )
    if joined.is_empty():
        raise UserError.one(
            PLACE, f"{treated} and {control} share no cell", "sample both on the same questions"
        )
    return PairedCells(
        personas=personas,
        questions=questions,
        hits_treated=joined["hits"].cast(pl.Int64).to_numpy(),
        total_treated=joined["total"].cast(pl.Int64).to_numpy(),
        hits_control=joined["hits_control"].cast(pl.Int64).to_numpy(),
        total_control=joined["total_control"].cast(pl.Int64).to_numpy(),
        missing=len(personas) * len(questions) - joined.height,
    )
