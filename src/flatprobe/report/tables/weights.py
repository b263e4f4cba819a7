"""Tables of how strongly adapters change the weights: a row per adapter, and a row per kind of matrix."""

from __future__ import annotations

import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.run import ordered
from flatprobe.report.tables.table import Column, Table, build

ADAPTER = ("stage", "condition", "lambda", "seed")
STAGES = {"finetune": "finetune", "couple": "coupling"}


def adapters(analysis: Analysis) -> Table | None:
    """One row per adapter, over its modules."""
    caption = (
        "How strongly every adapter changes its weight matrices. Norm ratio: Frobenius norm of the update over that of "
        "the weight."
    )
    return _table(analysis, "weights", (), caption)


def matrices(analysis: Analysis) -> Table | None:
    """One row per adapter and kind of matrix, over layers."""
    return _table(analysis, "weights-by-matrix", ("matrix",), "The same per kind of matrix, over layers.")


def _table(analysis: Analysis, name: str, further: tuple[str, ...], caption: str) -> Table | None:
    if "weights" not in analysis.tables:
        return None
    frame = (
        analysis.tables["weights"]
        .group_by(*ADAPTER, *further, maintain_order=True)
        .agg(
            modules=pl.len(),
            rank=pl.col("rank").max(),
            median=pl.col("norm_ratio").median(),
            largest=pl.col("norm_ratio").max(),
        )
    )
    frame = ordered(analysis, frame).sort("stage", descending=True, maintain_order=True)
    columns = [
        Column("adapter", lambda row: STAGES[row["stage"]]),
        Column("condition", "condition"),
        Column("λ", "lambda", numbers.plain),
        Column("seed", "seed", numbers.plain),
        *(Column(key, key) for key in further),
        Column("modules", "modules", numbers.plain),
        Column("rank", "rank", numbers.plain),
        Column("norm ratio, median", "median", numbers.decimal),
        Column("norm ratio, largest", "largest", numbers.decimal),
    ]
    return build(name, caption, columns, frame.to_dicts())
