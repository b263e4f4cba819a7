"""The filters that figures, tables and cards share, so that they show the same estimates.

Estimates over all seeds have no seed. Estimates of one seed alone only show whether seeds agree, and are excluded here.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flatprobe.report.analysis_folder import Analysis
from flatprobe.statistics.estimate import Estimate
from flatprobe.study.panel import PRIMARY_POOL

DECIDING_GEOMETRIC_ESTIMATOR = "question_bootstrap"
REGISTERED_DETECTOR = "strict"
LEFT_OUT_ESTIMATOR = "crossed_anova"
"""The leakage estimator of the leave-one-out analysis: of the two computed, the one that generalises further."""
SEED_ESTIMATORS = ("seed_t", "crossed_anova_seed")
"""Estimators that treat seeds as random; they belong to no single seed."""


def contrast_name(treated: str, control: str) -> str:
    """`treated − control`, as printed."""
    return f"{treated} \u2212 {control}"


def text_sets(analysis: Analysis) -> list[tuple[str, str | None]]:
    """(set, condition it is held out from) of the manipulation check's texts: in domain in the order of the study's
    conditions, then out of domain."""
    present = set(analysis.tables["manipulation"].select("set", "held_out_from").iter_rows())
    order = [*(("in_domain", name) for name in analysis.conditions), ("out_of_domain", None)]
    return [each for each in order if each in present]


def estimates(analysis: Analysis, rows: pl.Expr) -> list[Estimate]:
    """The estimates of the rows that an expression selects, in the folder's order."""
    return [Estimate.from_json(row) for row in analysis.estimates.filter(rows).to_dicts()]


def geometric(
    analysis: Analysis,
    treated: str,
    control: str,
    quantities: Sequence[str],
    estimator: str = DECIDING_GEOMETRIC_ESTIMATOR,
) -> list[Estimate]:
    """Estimates of geometric measures at the deciding position and responses, over all seeds.

    One per layer, and one with the layer None for their mean.
    """
    return estimates(
        analysis,
        (pl.col("treated") == treated)
        & (pl.col("control") == control)
        & pl.col("quantity").is_in(list(quantities))
        & (pl.col("estimator") == estimator)
        & (pl.col("position") == analysis.position)
        & (pl.col("responses") == analysis.responses)
        & (pl.col("pool") == PRIMARY_POOL)
        & _of_all_seeds_and_personas(),
    )


def leakage(analysis: Analysis, treated: str, control: str, pool: str = PRIMARY_POOL) -> list[Estimate]:
    """Estimates of one pool's leakage difference at the selected lambda, by all estimators, over all seeds."""
    return estimates(
        analysis,
        (pl.col("quantity") == "leakage_difference")
        & (pl.col("treated") == treated)
        & (pl.col("control") == control)
        & (pl.col("pool") == pool)
        & ((pl.col("lambda") == analysis.selected_lambda) | pl.col("lambda").is_null())
        & _of_all_seeds_and_personas(),
    )


def specifications(analysis: Analysis, treated: str, control: str) -> pl.DataFrame:
    """Every specification of a contrast; the column `registered` is true for the one that decides."""
    registered = (
        (pl.col("estimator") == analysis.decision.behaviour.estimator)
        & (pl.col("pool") == PRIMARY_POOL)
        & ~pl.col("contaminated")
        & (pl.col("lambda") == analysis.selected_lambda)
        & (pl.col("detector") == REGISTERED_DETECTOR)
    )
    of_contrast = analysis.tables["specifications"].filter(pl.col("contrast") == f"{treated} - {control}")
    return of_contrast.with_columns(registered=registered.fill_null(False))


def pool_name(pool: str, contaminated: bool) -> str:
    """A pool's name as printed, labelled if it holds personas that were trained on."""
    return f"{pool} (contaminated)" if contaminated else pool


def left_out(analysis: Analysis, probe: str, kind: str) -> pl.DataFrame:
    """The deciding estimate without each persona or question; geometry as mean over layers.

    `probe` is `leakage` or `geometry`, `kind` is `persona` or `question`. Sorted by estimate, undefined last.
    """
    measure = analysis.decision.geometry.measure
    estimator = {"leakage": LEFT_OUT_ESTIMATOR, "geometry": measure}[probe]
    return (
        analysis.tables["leave_one_out"]
        .filter(
            (pl.col("probe") == probe)
            & (pl.col("kind") == kind)
            & (pl.col("estimator") == estimator)
            & pl.col("layer").is_null()
        )
        .sort("estimate", "left_out", nulls_last=True)
    )


def _of_all_seeds_and_personas() -> pl.Expr:
    return pl.col("seed").is_null() & pl.col("persona").is_null()
