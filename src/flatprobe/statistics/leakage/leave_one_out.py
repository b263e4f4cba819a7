"""How much the leakage difference depends on any one persona or question."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flatprobe.statistics.leakage.cells import PairedCells
from flatprobe.statistics.leakage.estimators import contrast_cells

SCHEMA = {
    "kind": pl.String,
    "left_out": pl.String,
    "estimator": pl.String,
    "estimate": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "p_value": pl.Float64,
    "difference": pl.Float64,
    "note": pl.String,
}


def leave_one_out(
    paired: PairedCells,
    *,
    resamples: int,
    seed: int,
    level: float,
    estimators: Sequence[str] = ("crossed_anova", "cell_bootstrap"),
) -> pl.DataFrame:
    """Repeat the estimate without each persona and each question: one row per `left_out` and estimator.

    Columns: kind (persona, question), left_out, estimator; estimate, ci_low, ci_high, p_value, all without it, as
    rates; difference (that estimate minus the full one); note. A factor with a single level has no rows. Where an
    estimator does not support the rest, its numbers are null and the note says why.
    """
    rests = []
    if len(paired.personas) > 1:
        rests += [("persona", name, paired.without(persona=name)) for name in paired.personas]
    if len(paired.questions) > 1:
        rests += [("question", name, paired.without(question=name)) for name in paired.questions]
    full = float(paired.differences.mean())
    rows = [
        {
            "kind": kind,
            "left_out": left_out,
            "estimator": row.estimator,
            "estimate": row.estimate,
            "ci_low": row.ci_low,
            "ci_high": row.ci_high,
            "p_value": row.p_value,
            "difference": None if row.estimate is None else row.estimate - full,
            "note": row.note,
        }
        for kind, left_out, rest in rests
        for row in contrast_cells(rest, resamples=resamples, seed=seed, level=level, estimators=estimators)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)
