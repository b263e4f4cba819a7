"""Tables of geometry: levels per layer, and what moved, by measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis import Analysis
from flatprobe.report.tables import Column, Table, build, scope, seed
from flatprobe.report.words import MEASURES
from flatprobe.statistics.measures import RATIOS


def layers(analysis: Analysis) -> Table:
    """Per condition and layer: level of the cosines and what limits reading them."""
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    rows = sorted(
        analysis.at_registered_position("geometry").to_dicts(),
        key=lambda row: (row["layer"], rank[row["condition"]]),
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
    return build(
        "layers", "Centroids per layer and condition, at the deciding position and responses.", columns, rows
    )


def effects(analysis: Analysis) -> Table:
    """Per layer and for the aggregate: every geometric measure of the deciding contrast, with its interval; the
    deciding one first."""
    frame = select.geometric(analysis, analysis.treated, analysis.control, list(MEASURES))
    decides = str(analysis.study["decision"]["geometry"]["measure"])
    present = [name for name in MEASURES if name in set(frame["quantity"])]
    present.sort(key=lambda name: name != decides)
    at = {(row["layer"], row["quantity"]): row for row in frame.to_dicts()}
    found = sorted({layer for layer, _ in at if layer is not None})
    rows = [
        {"layer": layer, **{name: at.get((layer, name)) for name in present}}
        for layer in (*found, None)
        if any((layer, name) in at for name in present)
    ]

    def write(row: Mapping[str, Any] | None) -> str:
        if row is None or row["estimate"] is None:
            return numbers.NONE
        return f"{_effect(row, 'estimate')}\n{_effect_interval(row)}"

    columns = [
        Column("layer", lambda row: "mean over layers" if row["layer"] is None else row["layer"]),
        *(Column(MEASURES[name] + (", decides" if name == decides else ""), name, write) for name in present),
    ]
    name = select.contrast_name(analysis.treated, analysis.control)
    return build(
        "effects",
        f"What moved, {name}: each measure with its {analysis.geometric_level} interval over questions.",
        columns,
        rows,
    )


def _effect(row: Mapping[str, Any], key: str) -> str:
    """Differences carry their sign; ratios, whose null is 1, do not."""
    return numbers.decimal(row[key], 4, signed=row["quantity"] not in RATIOS)


def _effect_interval(row: Mapping[str, Any]) -> str:
    signed = row["quantity"] not in RATIOS
    return numbers.interval(
        row["ci_low"], row["ci_high"], lambda value: numbers.decimal(value, 4, signed=signed)
    )


def aggregates(analysis: Analysis, *, registered: bool) -> Table:
    """Estimates over all registered layers: at the deciding position and responses, or at all the others."""
    at_rule = (pl.col("position") == analysis.position) & (pl.col("responses") == analysis.responses)
    deciding = pl.col("estimator") == select.DECIDING_GEOMETRIC_ESTIMATOR
    frame = analysis.estimates.filter(
        (pl.col("quantity") != "leakage_difference")
        & pl.col("layer").is_null()
        & (at_rule if registered else ~at_rule & deciding)
    )
    rows = frame.sort("contrast", "position", "responses", "quantity", "estimator", "seed").to_dicts()
    columns = [
        Column("quantity", lambda row: MEASURES.get(row["quantity"], row["quantity"].replace("_", " "))),
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("position", "position"),
        Column("responses", "responses"),
        Column("estimator", "estimator"),
        Column("pool", "pool"),
        Column("seed", seed),
        Column("estimate", lambda row: _effect(row, "estimate"), str),
        Column("SE", "standard_error", lambda value: numbers.decimal(value, 4)),
        Column(f"{analysis.geometric_level} interval", _effect_interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("bootstrap bias", "bootstrap_bias", numbers.signed),
        Column("outside own interval", "outside_own_interval"),
        Column("interval and p speak for", scope, align="long"),
    ]
    if registered:
        caption = "Every measure over the registered layers, at the deciding position and responses."
        return build("aggregates", caption, columns, rows)
    caption = (
        "The same at other positions and responses, by the deciding estimator: reported, never deciding."
    )
    return build("aggregates-elsewhere", caption, columns, rows)
