"""Which estimates decide: the few filters that figures, tables and cards share, so that they show the same
rows.

Estimates of several seeds pooled have no seed; those of one seed alone, which only say whether seeds agree,
name theirs and are left out here.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flatprobe.report.analysis import Analysis

DECIDING_GEOMETRIC_ESTIMATOR = "question_bootstrap"
BYSTANDERS = "bystanders"


def contrast_name(treated: str, control: str) -> str:
    """`treated − control`, as printed."""
    return f"{treated} \u2212 {control}"


def contrasts(analysis: Analysis) -> list[tuple[str, str]]:
    """(treated, control) pairs in order of interest: the deciding one, treated − benign, benign − control."""
    pairs = [(analysis.treated, analysis.control)]
    if analysis.benign is not None:
        pairs += [(analysis.treated, analysis.benign), (analysis.benign, analysis.control)]
    return pairs


def geometric(
    analysis: Analysis,
    treated: str,
    control: str,
    quantities: Sequence[str],
    estimator: str = DECIDING_GEOMETRIC_ESTIMATOR,
) -> pl.DataFrame:
    """Estimates of geometric measures at the deciding position and responses: layers, and None for the
    aggregate; seeds pooled."""
    return analysis.estimates.filter(
        (pl.col("treated") == treated)
        & (pl.col("control") == control)
        & pl.col("quantity").is_in(list(quantities))
        & (pl.col("estimator") == estimator)
        & (pl.col("position") == analysis.position)
        & (pl.col("responses") == analysis.responses)
        & (pl.col("pool") == BYSTANDERS)
        & _of_all_seeds_and_personas()
    )


def leakage(analysis: Analysis, treated: str, control: str, pool: str = BYSTANDERS) -> pl.DataFrame:
    """Estimates of the leakage difference at the selected lambda, all estimators, of one pool, seeds pooled."""
    return analysis.estimates.filter(
        (pl.col("quantity") == "leakage_difference")
        & (pl.col("treated") == treated)
        & (pl.col("control") == control)
        & (pl.col("pool") == pool)
        & ((pl.col("lambda") == analysis.selected_lambda) | pl.col("lambda").is_null())
        & _of_all_seeds_and_personas()
    )


def _of_all_seeds_and_personas() -> pl.Expr:
    return pl.col("seed").is_null() & pl.col("persona").is_null()
