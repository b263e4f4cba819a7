"""Small tables of cells for the leakage statistics' tests."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.cells import PairedCells, pair_cells

Counts = list[list[int]]


def table(treated: Counts, control: Counts, total: int = 10) -> pl.DataFrame:
    """Counts from two persona-by-question tables; personas a, b, ... and questions q00, q01, ..."""
    rows = [
        {"condition": condition, "persona": chr(97 + p), "question_id": f"q{q:02d}", "hits": hits, "total": total}
        for condition, counts in (("em_first", treated), ("base_first", control))
        for p, row in enumerate(counts)
        for q, hits in enumerate(row)
    ]
    return pl.DataFrame(rows)


def random_cells(generator: np.random.Generator, personas: int, questions: int, total: int = 10) -> pl.DataFrame:
    """Cells whose rates differ between personas, between questions and between conditions."""
    rate_P = generator.uniform(0.2, 0.8, size=(personas, 1)) + generator.normal(0, 0.1, size=(1, questions))
    control = generator.binomial(total, np.clip(rate_P, 0, 1))
    treated = generator.binomial(total, np.clip(rate_P + generator.normal(0.1, 0.2, (personas, 1)), 0, 1))
    return table(treated.tolist(), control.tolist(), total)


def pair(cells: pl.DataFrame, treated: str = "em_first", control: str = "base_first") -> PairedCells:
    """The two conditions' cells, joined over all personas."""
    return pair_cells(cells, treated, control, cells["persona"].unique().sort().to_list())


def groups(paired: PairedCells) -> NDArray[np.int64]:
    """Persona and question rank of every paired cell, shape (cells, 2)."""
    places = np.arange(len(paired.hits_treated)) if paired.places is None else paired.places
    return np.stack(np.divmod(places, len(paired.questions)), axis=1)


def by_name(estimates: list[Estimate]) -> dict[str, Estimate]:
    """Estimates by their estimator."""
    return {estimate.estimator: estimate for estimate in estimates}
