"""Table of the size of every adapter's update: one row per adapter."""

from __future__ import annotations

import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.run import ordered
from flatprobe.report.tables.table import Column, Table, build

STAGES = {"finetune": "finetune", "couple": "coupling"}
COLUMNS = (
    Column("adapter", lambda row: STAGES[row["stage"]]),
    Column("condition", "condition"),
    Column("λ", "lambda", numbers.plain),
    Column("seed", "seed", numbers.plain),
    Column("modules", "modules", numbers.plain),
    Column("norm ratio, median", "median", numbers.decimal),
    Column("norm ratio, largest", "largest", numbers.decimal),
    Column("in module", "module"),
)


def adapters(analysis: Analysis) -> Table | None:
    """Median and largest norm ratio over the modules of each adapter."""
    if "weights" not in analysis.tables:
        return None
    ratio = pl.col("norm_ratio")
    frame = (
        analysis.tables["weights"]
        .group_by("stage", "condition", "lambda", "seed", maintain_order=True)
        .agg(modules=pl.len(), median=ratio.median(), largest=ratio.max(), module=pl.col("module").get(ratio.arg_max()))
    )
    frame = ordered(analysis, frame).sort("stage", descending=True, maintain_order=True)
    caption = (
        "How much every adapter changes the modules that it adapts. Norm ratio: the update's Frobenius norm over the "
        "weight's."
    )
    return build("weights", caption, COLUMNS, frame.to_dicts())
