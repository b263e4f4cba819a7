"""Tables of geometry: levels per layer, and what moved, by measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, build, scope, seed
from flatprobe.report.words import MEASURES
from flatprobe.statistics.geometry.measures import RATIOS


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
    rows, present = _by_layer(analysis)
    decides = str(analysis.study["decision"]["geometry"]["measure"])
    measures = [
        Column(
            MEASURES[name] + (", decides" if name == decides and analysis.has_coupling else ""), name, _cell
        )
        for name in present
    ]
    tests = (
        [Column("p", decides, _p), *_adjusted_columns(rows, decides, "adjusted p")]
        if decides in present
        else []
    )
    columns = [Column("layer", _layer), *measures[:1], *tests, *measures[1:]]
    name = select.contrast_name(analysis.treated, analysis.control)
    caption = f"What moved, {name}: each measure with its {analysis.geometric_level} interval over questions."
    families = {row[decides]["family"] for row in rows if tests and row[decides]}
    known = sorted(family for family in families if family is not None)
    if known:
        caption += (
            f" Beside the deciding measure its p, alone and adjusted for all layers ({', '.join(known)})."
        )
    return build("effects", caption, columns, rows)


def effect_tests(analysis: Analysis) -> Table:
    """Per layer and measure of the deciding contrast: p, and p adjusted for the choice among layers."""
    rows, present = _by_layer(analysis)
    columns = [Column("layer", _layer)]
    for name in present:
        columns.append(Column(f"{MEASURES[name]}: p", name, _p))
        columns += _adjusted_columns(rows, name, "adjusted")
    families = {row[name]["family"] for row in rows for name in present if row[name] is not None}
    known = ", ".join(sorted(family for family in families if family is not None))
    caption = "p of no change by layer and measure" + (f"; adjusted: {known}." if known else ".")
    return build("effect-tests", caption, columns, rows)


def _by_layer(analysis: Analysis) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per layer and one for their mean, with the deciding estimator's row of every measure; and the
    measures that there are, the deciding one first."""
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
    return rows, present


def _layer(row: Mapping[str, Any]) -> str:
    return "mean over layers" if row["layer"] is None else str(row["layer"])


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["estimate"] is None:
        return numbers.NONE
    return f"{_effect(row, 'estimate')}\n{_effect_interval(row)}"


def _p(row: Mapping[str, Any] | None) -> str:
    return numbers.NONE if row is None else numbers.p_value(row["p_value"])


def _adjusted_p(row: Mapping[str, Any] | None) -> str:
    return numbers.NONE if row is None else numbers.p_value(row["adjusted_p"])


def _adjusted_columns(rows: list[dict[str, Any]], measure: str, head: str) -> list[Column]:
    """The column of adjusted p of a measure that has any."""
    present = any(row[measure] is not None and row[measure]["adjusted_p"] is not None for row in rows)
    return [Column(head, measure, _adjusted_p)] if present else []


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


def massive(analysis: Analysis) -> Table | None:
    """The largest hidden dimensions per layer and condition, and how much of the states' length they make up."""
    rows = _largest_dimensions(analysis)
    if not rows:
        return None
    columns = [
        Column("layer", "layer"),
        Column("condition", "condition"),
        Column("largest dimensions (times the median)", _dimensions),
        Column("their share of the squared norm", "share", numbers.percent),
    ]
    caption = "The largest hidden dimensions by mean size, at the deciding position and responses."
    return build("massive", caption, columns, rows)


def most_massive(analysis: Analysis) -> str | None:
    """The layer and condition whose largest dimensions make up most of the squared norm, as a sentence."""
    known = [row for row in _largest_dimensions(analysis) if row["share"] is not None]
    if not known:
        return None
    most = max(known, key=lambda row: float(row["share"]))
    return (
        f"Here they weigh most at layer {most['layer']} of {most['condition']}: the {len(most['dimensions'])} "
        f"largest dimensions make up {numbers.percent(most['share'])} of the squared norm."
    )


def _largest_dimensions(analysis: Analysis) -> list[dict[str, Any]]:
    """One row per layer and condition with its dimensions by rank and the sum of their shares, which is unknown
    where one of them is; none where the table is absent."""
    if "massive" not in analysis.tables:
        return []
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    share = pl.col("share_of_squared_norm")
    return (
        analysis.at_registered_position("massive")
        .group_by("layer", "condition")
        .agg(
            dimensions=pl.struct("dimension", "ratio_to_median").sort_by("rank"),
            share=pl.when(share.is_not_null().all()).then(share.sum()),
        )
        .sort("layer", pl.col("condition").replace_strict(rank, return_dtype=pl.Int64))
        .to_dicts()
    )


def _dimensions(row: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{one['dimension']} ({numbers.decimal(one['ratio_to_median'], 1)})" for one in row["dimensions"]
    )
