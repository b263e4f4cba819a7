"""Counts of two conditions joined cell by cell; refuses bad counts with every problem at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import Array

KEYS = ("condition", "persona", "question_id")
COUNTS = ("hits", "total")
COLUMNS = (*KEYS, *COUNTS)
PLACE = "leakage cells"


@dataclass(frozen=True)
class PairedCells:
    """Cells that both conditions have: one entry per (persona, question), sorted by persona."""

    personas: tuple[str, ...]
    questions: tuple[str, ...]
    hits_treated: NDArray[np.int64]
    total_treated: NDArray[np.int64]
    hits_control: NDArray[np.int64]
    total_control: NDArray[np.int64]
    missing: int
    """Cells of the persona-by-question table that one or both conditions lack."""
    places: NDArray[np.int64] | None = None
    """Ascending index of each entry in the row-major (P, Q) table; None if no cell is missing."""

    def __post_init__(self) -> None:
        entries, table = len(self.hits_treated), len(self.personas) * len(self.questions)
        if entries + self.missing != table or (self.missing > 0) != (self.places is not None):
            raise ValueError(f"{entries} cells and {self.missing} missing ones do not make a table of {table}")

    @property
    def differences(self) -> Array:
        """Treated rate minus control rate per paired cell, shape (cells,)."""
        rates: Array = self.hits_treated / self.total_treated - self.hits_control / self.total_control
        return rates

    @property
    def d_PQ(self) -> Array | None:
        """The differences as a (P, Q) table; None if a cell is missing."""
        if self.missing:
            return None
        return self.differences.reshape(len(self.personas), len(self.questions))

    @property
    def layout(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...] | None]:
        """Personas, questions, and the indices of existing cells (None: all)."""
        return self.personas, self.questions, None if self.places is None else tuple(self.places.tolist())

    def table(self) -> tuple[Array, Array | None]:
        """The differences (P, Q), 0 where a cell is missing, and 1/0 for existing or missing (None: complete).

        Personas and questions without any paired cell are left out.
        """
        shape = len(self.personas), len(self.questions)
        if self.places is None:
            return self.differences.reshape(shape), None
        d_PQ, n_PQ = np.zeros(shape), np.zeros(shape)
        d_PQ.ravel()[self.places] = self.differences
        n_PQ.ravel()[self.places] = 1.0
        some = np.ix_(n_PQ.any(axis=1), n_PQ.any(axis=0))
        return d_PQ[some], n_PQ[some]

    def without(self, *, persona: str | None = None, question: str | None = None) -> PairedCells:
        """The same cells less one persona, or one question, or both."""
        width = len(self.questions)
        places = np.arange(len(self.hits_treated)) if self.places is None else self.places
        kept_P = np.array([name != persona for name in self.personas])
        kept_Q = np.array([name != question for name in self.questions])
        keep = kept_P[places // width] & kept_Q[places % width]
        rank_P, rank_Q = np.cumsum(kept_P) - 1, np.cumsum(kept_Q) - 1
        size = int(kept_P.sum() * kept_Q.sum())
        missing = size - int(keep.sum())
        moved = rank_P[places[keep] // width] * int(kept_Q.sum()) + rank_Q[places[keep] % width]
        return PairedCells(
            personas=tuple(name for name in self.personas if name != persona),
            questions=tuple(name for name in self.questions if name != question),
            hits_treated=self.hits_treated[keep],
            total_treated=self.total_treated[keep],
            hits_control=self.hits_control[keep],
            total_control=self.total_control[keep],
            missing=missing,
            places=moved if missing else None,
        )


def pair_cells(cells: pl.DataFrame, treated: str, control: str, personas: Sequence[str]) -> PairedCells:
    """Join the two conditions' counts on (persona, question); rows may be in any order.

    Counts may be floats with whole values. Raises UserError, with every problem, for missing columns, an empty or
    repeated pool, rows without a key, duplicate cells, counts that are missing, fractional or impossible, a persona
    that a condition lacks, and a persona without a question in common.
    """
    absent = [column for column in COLUMNS if column not in cells.columns]
    if absent:
        raise UserError.one(
            "cells.missing_column", PLACE, f"columns {', '.join(absent)} are missing", f"needed: {', '.join(COLUMNS)}"
        )
    problems = _pool_problems(treated, control, personas) + _type_problems(cells)
    if problems:
        raise UserError(problems)
    as_text = [pl.col(key).fill_nan(None) if cells.schema[key].is_float() else pl.col(key) for key in KEYS]
    compared = (
        cells.select(COLUMNS)
        .with_columns(key.cast(pl.String) for key in as_text)
        .filter(pl.col("condition").is_null() | pl.col("condition").is_in([treated, control]))
    )
    used = compared.filter(pl.col("persona").is_in(list(personas)))
    problems = _key_problems(compared) + _cell_problems(used, treated, control, personas)
    if problems:
        raise UserError(problems)
    return _join(used, treated, control, tuple(personas))


def _pool_problems(treated: str, control: str, personas: Sequence[str]) -> list[Problem]:
    problems = []
    if not personas or len(set(personas)) != len(personas):
        message = "the pool is empty or names a persona twice"
        problems.append(Problem("cells.pool", "personas", message, "name each bystander once"))
    if treated == control:
        problems.append(
            Problem("cells.same_condition", "condition", f"{treated} is compared with itself", "name two conditions")
        )
    return problems


def _type_problems(cells: pl.DataFrame) -> list[Problem]:
    return [
        Problem("cells.column_type", f"{PLACE}: {name}", f"the column holds {cells.schema[name]} instead of counts")
        for name in COUNTS
        if not cells.schema[name].is_numeric()
    ]


def _key_problems(compared: pl.DataFrame) -> list[Problem]:
    absent = {key: compared[key].null_count() for key in KEYS}
    return [
        Problem(
            "cells.missing_key",
            PLACE,
            f"{count} row{'s' if count > 1 else ''} without a {key}",
            "fill in or remove them",
        )
        for key, count in absent.items()
        if count
    ]


def _cell_problems(used: pl.DataFrame, treated: str, control: str, personas: Sequence[str]) -> list[Problem]:
    problems = []
    for condition in (treated, control):
        present = set(used.filter(pl.col("condition") == condition)["persona"])
        absent = [persona for persona in personas if persona not in present]
        if absent:
            problems.append(
                Problem(
                    "cells.missing_persona",
                    f"{PLACE}: {condition}",
                    f"no cell of {', '.join(absent)}",
                    "sample them first",
                )
            )
    named = used.drop_nulls(KEYS)
    repeated = named.filter(pl.struct(KEYS).is_duplicated()).unique(KEYS, maintain_order=True)
    for row in repeated.iter_rows(named=True):
        remedy = "give one row per condition, persona and question: filter one seed and one lambda"
        problems.append(Problem("cells.duplicate", _place(row), "the cell stands more than once", remedy))
    hits, total = (pl.col(name).cast(pl.Float64) for name in COUNTS)
    whole = pl.all_horizontal(count.is_finite() & (count.floor() == count) for count in (hits, total))
    possible = (total >= 1) & (hits >= 0) & (hits <= total)
    for row in used.filter(~whole.fill_null(False)).iter_rows(named=True):
        message = f"hits = {row['hits']}, total = {row['total']}: counts are whole numbers"
        problems.append(Problem("cells.fractional_count", _place(row), message))
    for row in used.filter(whole & ~possible).iter_rows(named=True):
        message = f"{row['hits']} hits of {row['total']} completions is impossible"
        problems.append(Problem("cells.impossible_count", _place(row), message))
    return problems


def _place(row: dict[str, object]) -> str:
    return f"{PLACE}: " + " / ".join(str(row[key]) for key in KEYS)


def _join(used: pl.DataFrame, treated: str, control: str, personas: tuple[str, ...]) -> PairedCells:
    sides = [used.filter(pl.col("condition") == condition).drop("condition") for condition in (treated, control)]
    questions = tuple(sorted(used["question_id"].unique().to_list()))
    rank = {
        "persona": {name: index for index, name in enumerate(personas)},
        "question_id": {name: index for index, name in enumerate(questions)},
    }
    place = sum(
        pl.col(key).replace_strict(ranks, return_dtype=pl.Int64) * width
        for (key, ranks), width in zip(rank.items(), (len(questions), 1), strict=True)
    )
    joined = (
        sides[0]
        .join(sides[1], on=["persona", "question_id"], suffix="_control")
        .with_columns(place=place)
        .sort("place")
    )
    paired = set(joined["persona"])
    alone = [persona for persona in personas if persona not in paired]
    if alone:
        message = f"{treated} and {control} share no question of {', '.join(alone)}"
        raise UserError.one("cells.no_common_question", PLACE, message, "sample both on the same questions")
    missing = len(personas) * len(questions) - joined.height
    counts = {
        name: joined[name].cast(pl.Int64).to_numpy() for name in ("hits", "total", "hits_control", "total_control")
    }
    return PairedCells(
        personas=personas,
        questions=questions,
        hits_treated=counts["hits"],
        total_treated=counts["total"],
        hits_control=counts["hits_control"],
        total_control=counts["total_control"],
        missing=missing,
        places=joined["place"].to_numpy() if missing else None,
    )
