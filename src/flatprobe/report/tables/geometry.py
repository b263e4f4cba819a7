"""Tables of geometry: centroids per layer, and the contrasts of every measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Row, Table, build, layer_name, scope_column, seed_name
from flatprobe.report.words import MEASURES, measure_title
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.measures import RATIOS

LayerRow = tuple[int | None, dict[str, Estimate]]
"""A layer, None for their mean, and the estimate of every measure by the deciding estimator."""


def layers(analysis: Analysis) -> Table:
    """Per condition and layer: the cosines, and what limits their use."""
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    rows = sorted(
        analysis.at_registered_position("geometry").to_dicts(), key=lambda row: (row["layer"], rank[row["condition"]])
    )
    columns = [
        Column("layer", "layer"),
        Column("condition", "condition"),
        Column("mean cosine", "mean_cosine", lambda value: numbers.decimal(value, 4)),
        Column("headroom", "headroom", lambda value: numbers.decimal(value, 4)),
        Column("reliability", "reliability", numbers.decimal),
        Column("separability", "separability", numbers.decimal),
        Column("chance", "chance", numbers.decimal),
        Column("scatter", "scatter", numbers.plain),
        Column("noise", "noise", numbers.plain),
        Column("participation ratio", "participation_ratio", lambda value: numbers.decimal(value, 2)),
        Column("mean norm", "mean_norm", lambda value: numbers.decimal(value, 1)),
    ]
    return build("layers", "Centroids per layer and condition, at the deciding position and responses.", columns, rows)


def effects(analysis: Analysis) -> Table:
    """Every geometric measure of the deciding contrast with its interval, per layer and as their mean.

    The deciding measure comes first.
    """
    rows, present = _by_layer(analysis)
    decides = analysis.decision.geometry.measure
    measures = [
        Column(MEASURES[name] + (", decides" if name == decides and analysis.has_coupling else ""), _of(name), _cell)
        for name in present
    ]
    tests = (
        [Column("p", _of(decides), _p), *_adjusted_columns(rows, decides, "adjusted p")] if decides in present else []
    )
    columns = [Column("layer", lambda row: row[0], layer_name, "text"), *measures[:1], *tests, *measures[1:]]
    name = select.contrast_name(analysis.treated, analysis.control)
    caption = f"{name}: each measure with its {analysis.geometric_level} interval over questions."
    families = {row[decides].family for _, row in rows if tests and decides in row}
    adjusted = sorted(family for family in families if family is not None)
    if adjusted:
        caption += f" The deciding measure also has its p, unadjusted and adjusted ({', '.join(adjusted)})."
    return build("effects", caption, columns, rows)


def effect_tests(analysis: Analysis) -> Table:
    """p of the deciding contrast per layer and measure, and p adjusted for the choice among layers."""
    rows, present = _by_layer(analysis)
    columns = [Column("layer", lambda row: row[0], layer_name, "text")]
    for name in present:
        columns.append(Column(f"{MEASURES[name]}: p", _of(name), _p))
        columns += _adjusted_columns(rows, name, "adjusted p")
    families = {estimate.family for _, row in rows for estimate in row.values()}
    adjusted = ", ".join(sorted(family for family in families if family is not None))
    caption = "p of no change by layer and measure" + (f". Adjustment: {adjusted}." if adjusted else ".")
    return build("effect-tests", caption, columns, rows)


def _by_layer(analysis: Analysis) -> tuple[list[LayerRow], list[str]]:
    """One row per layer and one for their mean, and the names of the measures, the deciding one first."""
    estimates = select.geometric(analysis, analysis.treated, analysis.control, list(MEASURES))
    decides = analysis.decision.geometry.measure
    quantities = {estimate.quantity for estimate in estimates}
    present = [name for name in MEASURES if name in quantities]
    present.sort(key=lambda name: name != decides)
    at = {(estimate.layer, estimate.quantity): estimate for estimate in estimates}
    blocks = sorted({layer for layer, _ in at if layer is not None})
    rows = [(layer, {name: at[layer, name] for name in present if (layer, name) in at}) for layer in (*blocks, None)]
    return [row for row in rows if row[1]], present


def _of(measure: str) -> Callable[[LayerRow], Estimate | None]:
    """What a column of one measure takes from a row."""
    return lambda row: row[1].get(measure)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or estimate.estimate is None:
        return numbers.NONE
    return f"{_effect(estimate)}\n{_effect_interval(estimate)}"


def _p(estimate: Estimate | None) -> str:
    return numbers.NONE if estimate is None else numbers.p_value(estimate.p_value)


def _adjusted_p(estimate: Estimate | None) -> str:
    return numbers.NONE if estimate is None else numbers.p_value(estimate.adjusted_p)


def _adjusted_columns(rows: list[LayerRow], measure: str, head: str) -> list[Column]:
    """The column of a measure's adjusted p, if it has any."""
    present = any(measure in row and row[measure].adjusted_p is not None for _, row in rows)
    return [Column(head, _of(measure), _adjusted_p)] if present else []


def _effect(estimate: Estimate) -> str:
    """Differences have a sign; ratios, whose null value is 1, have none."""
    return numbers.decimal(estimate.estimate, 4, signed=estimate.quantity not in RATIOS)


def _effect_interval(estimate: Estimate) -> str:
    write = partial(numbers.decimal, digits=4, signed=estimate.quantity not in RATIOS)
    return numbers.interval(estimate.ci_low, estimate.ci_high, write)


def aggregates(analysis: Analysis, *, registered: bool) -> Table:
    """Means over the registered layers: at the deciding position and responses, or at all others."""
    at_rule = (pl.col("position") == analysis.position) & (pl.col("responses") == analysis.responses)
    deciding = pl.col("estimator") == select.DECIDING_GEOMETRIC_ESTIMATOR
    estimates = select.estimates(
        analysis,
        (pl.col("quantity") != "leakage_difference")
        & pl.col("layer").is_null()
        & (at_rule if registered else ~at_rule & deciding),
    )
    estimates.sort(key=_order)
    columns = [
        Column("measure", lambda estimate: measure_title(estimate.quantity)),
        Column("contrast", lambda estimate: select.contrast_name(estimate.treated, estimate.control)),
        Column("position", "position"),
        Column("responses", "responses"),
        Column("estimator", "estimator"),
        Column("pool", "pool"),
        Column("seed", "seed", seed_name, "text"),
        Column("estimate", _effect, str),
        Column("SE", "standard_error", lambda value: numbers.decimal(value, 4)),
        Column(f"{analysis.geometric_level} interval", _effect_interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("bootstrap bias", "bootstrap_bias", numbers.signed),
        Column("outside its interval", "outside_own_interval"),
        scope_column(),
    ]
    if registered:
        caption = "Every measure, mean over the registered layers, at the deciding position and responses."
        return build("aggregates", caption, columns, estimates)
    caption = "The same at other positions and responses, by the deciding estimator. None of them decides."
    return build("aggregates-elsewhere", caption, columns, estimates)


def _order(estimate: Estimate) -> tuple[str, str, str, str, str, int]:
    """Sort key; estimates over all seeds come before those of one seed."""
    place = (estimate.position or "", estimate.responses or "")
    seed = -1 if estimate.seed is None else estimate.seed
    return (estimate.contrast, *place, estimate.quantity, estimate.estimator, seed)


def massive(analysis: Analysis) -> Table | None:
    """The largest hidden dimensions per layer and condition, with their share of the states' squared length."""
    rows = _largest_dimensions(analysis)
    caption = "The largest hidden dimensions by mean size, at the deciding position and responses."
    return massive_table(caption, rows) if rows else None


def massive_table(caption: str, rows: Sequence[Row]) -> Table:
    """A table of rows of `largest_dimensions`."""
    columns = [
        Column("layer", "layer"),
        Column("condition", "condition"),
        Column("largest dimensions (times the median)", _dimensions),
        Column("share of squared norm", "share", numbers.percent),
    ]
    return build("massive", caption, columns, rows)


def most_massive(analysis: Analysis) -> str | None:
    """A sentence on the layer and condition whose largest dimensions have the largest share of the squared norm."""
    rows = [row for row in _largest_dimensions(analysis) if row["share"] is not None]
    if not rows:
        return None
    most = max(rows, key=lambda row: float(row["share"]))
    return (
        f"Their share is largest at layer {most['layer']} of {most['condition']}: the {len(most['dimensions'])} "
        f"largest dimensions hold {numbers.percent(most['share'])} of the squared norm."
    )


def _largest_dimensions(analysis: Analysis) -> list[dict[str, Any]]:
    if "massive" not in analysis.tables:
        return []
    return largest_dimensions(analysis.at_registered_position("massive"), analysis.conditions)


def largest_dimensions(frame: pl.DataFrame, conditions: Sequence[str]) -> list[dict[str, Any]]:
    """One row per layer and condition: its dimensions by rank and the sum of their shares; None if one is unknown."""
    rank = {name: index for index, name in enumerate(conditions)}
    share = pl.col("share_of_squared_norm")
    return (
        frame.group_by("layer", "condition")
        .agg(
            dimensions=pl.struct("dimension", "ratio_to_median").sort_by("rank"),
            share=pl.when(share.is_not_null().all()).then(share.sum()),
        )
        .sort("layer", pl.col("condition").replace_strict(rank, return_dtype=pl.Int64))
        .to_dicts()
    )


def _dimensions(row: Row) -> str:
    return ", ".join(
        f"{each['dimension']} ({numbers.decimal(each['ratio_to_median'], 1)})" for each in row["dimensions"]
    )
