"""Tables of what adapters do to the weights: one row per adapter, and one per kind of matrix."""

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
    return _table(analysis, "weights", (), "What every adapter does to the weight matrices that it changes.")


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
            effective=pl.col("effective_rank").median(),
            intruders=pl.col("intruders").sum(),
            intruded=(pl.col("intruders") > 0).sum(),
        )
    )
    frame = ordered(analysis, frame).sort("stage", descending=True, maintain_order=True)
    wanted = analysis.study["weights"]
    columns = [
        Column("adapter", lambda row: STAGES[row["stage"]]),
        Column("condition", "condition"),
        Column("λ", "lambda", numbers.plain),
        Column("seed", "seed", numbers.plain),
        *(Column(key, key) for key in further),
        Column("modules", "modules", numbers.plain),
        Column("norm ratio, median", "median", numbers.decimal),
        Column("largest", "largest", numbers.decimal),
        Column("effective rank, median", "effective", lambda value: numbers.decimal(value, 1)),
        Column("of rank", "rank", numbers.plain),
        Column("intruder dimensions", "intruders", numbers.plain),
        Column("modules with one", lambda row: f"{row['intruded']} / {row['modules']}", str),
    ]
    if not further:
        caption += (
            " Norm ratio: the update's Frobenius norm over the weight's. Effective rank: exp of the entropy of the "
            f"update's singular values. Intruder dimensions: of the {wanted['leading']} leading left singular vectors "
            f"after the update, those whose cosine with every one before it is below {wanted['cosine']:g} "
            "(arXiv:2410.21228)."
        )
    return build(name, caption, columns, frame.to_dicts())
