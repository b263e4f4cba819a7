"""Geometric figures, all at the deciding position and responses: cosines and effects by layer, and a heat
map."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import Figure, by_condition, figure, rule
from flatprobe.report.select import contrast_name, geometric
from flatprobe.report.words import MEASURES

WIDTH_WIDE, WIDTH_NARROW, HEIGHT = 290, 270, 190
FEW = 12
"""Up to so many layers a heat map has room for numbers."""


def _layer_axis(layers: list[int]) -> alt.X:
    return alt.X("layer:O", title="layer", sort=layers, axis=alt.Axis(labelAngle=0, labelOverlap=True))


def by_layer(analysis: Analysis) -> Figure:
    """Mean source–bystander cosine and split-half reliability, per layer and condition."""
    frame = analysis.at_registered_position("geometry").sort("layer")
    layers = frame["layer"].unique(maintain_order=True).to_list()
    gate = float(analysis.study["decision"]["gates"]["reliability"])

    def panel(column: str, title: str, narrow: bool, extra: list[alt.Chart]) -> Any:
        y = alt.Y(f"{column}:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
        base = alt.Chart(frame.drop_nulls(column)).encode(x=_layer_axis(layers), y=y)
        encoding = by_condition(analysis.conditions, analysis.conditions)
        line = base.mark_line(strokeWidth=1.4).encode(color=encoding["color"])
        point = base.mark_point(filled=True, size=60, opacity=1).encode(**encoding)
        width = WIDTH_NARROW if narrow else WIDTH_WIDE
        return alt.layer(*extra, line, point).properties(width=width, height=HEIGHT, title=title)

    def draw(narrow: bool) -> alt.TopLevelMixin:
        cosine = panel("mean_cosine", "Mean cosine, source to bystanders", narrow, [])
        reliability = panel(
            "reliability", f"Split-half reliability (dashed: {gate:g})", narrow, [rule(gate, "y")]
        )
        return alt.vconcat(cosine, reliability) if narrow else alt.hconcat(cosine, reliability, spacing=36)

    return figure(
        "cosine-by-layer",
        "Left or above: mean cosine of source and bystander centroids by decoder block. Right or below: "
        f"split-half reliability of the centroids. Position {analysis.position}, {analysis.responses} "
        "responses.",
        "Mean cosine and reliability by layer, one line per condition; the values are in the table per "
        "layer.",
        draw,
    )


def effect_by_layer(analysis: Analysis) -> Figure:
    """The deciding measure per layer with its interval, for treated − control and benign − control."""
    measure = str(analysis.study["decision"]["geometry"]["measure"])
    arms = [name for name in (analysis.treated, analysis.benign) if name is not None]
    rows = pl.concat([geometric(analysis, arm, analysis.control, [measure]) for arm in arms])
    rows = (
        rows.drop_nulls(["layer", "estimate"])
        .with_columns(pl.col("treated").alias("condition"))
        .sort("layer")
    )
    layers = rows["layer"].unique(maintain_order=True).to_list()
    threshold = float(analysis.study["decision"]["geometry"]["threshold"])

    def draw(narrow: bool) -> alt.TopLevelMixin:
        offset = alt.XOffset("condition:N", sort=arms)
        encoding = by_condition(analysis.conditions, arms)
        base = alt.Chart(rows).encode(x=_layer_axis(layers), xOffset=offset)
        y = alt.Y("estimate:Q", title=MEASURES[measure], axis=alt.Axis(tickCount=6))
        band = base.mark_rule(strokeWidth=1.6).encode(y="ci_low:Q", y2="ci_high:Q", color=encoding["color"])
        point = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, **encoding)
        lines = [rule(0.0, "y", dash=(1, 0)), rule(threshold, "y")]
        return alt.layer(*lines, band, point).properties(width=270 if narrow else 620, height=HEIGHT)

    return figure(
        "effect-by-layer",
        f"{MEASURES[measure].capitalize()} against {analysis.control} by decoder block, with "
        f"{analysis.geometric_level} intervals over questions. Dashed: the threshold of "
        f"{threshold:g} that the mean over layers must reach."
        + _undefined(rows, analysis.at_registered_position("geometry")["layer"], arms),
        f"Effect by layer for {' and '.join(arms)} against {analysis.control}; the values are in the table "
        "per layer.",
        draw,
    )


def _undefined(rows: pl.DataFrame, layers: pl.Series, arms: list[str]) -> str:
    """Where no mark is drawn, and why that is no zero."""
    drawn = set(zip(rows["treated"], rows["layer"], strict=True))
    missing = [
        f"{arm} at layer {', '.join(map(str, absent))}"
        for arm in arms
        if (absent := [layer for layer in layers.unique().sort() if (arm, layer) not in drawn])
    ]
    return f" Undefined, so not drawn: {'; '.join(missing)}." if missing else ""


def cosine_heat_map(analysis: Analysis) -> Figure:
    """Persona × layer of the change in cosine to the source, treated − control."""
    frame = analysis.at_registered_position("cosines").filter(
        (pl.col("persona") != analysis.source)
        & pl.col("condition").is_in([analysis.treated, analysis.control])
    )
    wide = frame.pivot(on="condition", index=["persona", "layer"], values="cosine").with_columns(
        difference=pl.col(analysis.treated) - pl.col(analysis.control)
    )
    roles = {row["persona"]: row["role"] for row in analysis.tables["panel"].to_dicts()}
    ranks = {role: rank for rank, role in enumerate(("bystander", "negative", "reference", "source"))}
    order = wide.group_by("persona").agg(pl.col("difference").mean()).to_dicts()
    order.sort(key=lambda row: (ranks[roles[row["persona"]]], -(row["difference"] or 0.0), row["persona"]))
    personas = [row["persona"] for row in order]
    bound = max((abs(value) for value in wide["difference"].drop_nulls()), default=0.0) or 1.0
    rows = [
        {
            **row,
            "label": numbers.signed(row["difference"], 3),
            "light": (row["difference"] or 0.0) > -0.55 * bound,
        }
        for row in wide.drop_nulls("difference").sort("layer").to_dicts()
    ]
    layers = wide["layer"].unique().sort().to_list()

    def draw(narrow: bool) -> alt.TopLevelMixin:
        base = alt.Chart(pl.DataFrame(rows)).encode(
            x=alt.X(
                "layer:O",
                title="layer",
                sort=layers,
                axis=alt.Axis(labelAngle=0, orient="top", labelOverlap=True),
            ),
            y=alt.Y("persona:N", title=None, sort=personas),
        )
        scale = alt.Scale(
            domain=[-bound, 0, bound], range=["#2166ac", "#f7f7f7", "#e08214"], interpolate="lab"
        )
        cell = base.mark_rect().encode(
            color=alt.Color("difference:Q", scale=scale, legend=None),
        )
        ink = alt.condition("datum.light", alt.value("#111111"), alt.value("#ffffff"))
        text = base.mark_text(fontSize=9.5 if narrow else 11).encode(text="label:N", color=ink)
        if len(layers) > FEW:  # colours alone
            room = (270 if narrow else 700) // len(layers)
            legend = alt.Legend(title=None, format="+.2~f", tickCount=3, orient="bottom", gradientLength=180)
            named: alt.Chart = cell.encode(color=alt.Color("difference:Q", scale=scale, legend=legend))
            return named.properties(width=alt.Step(max(4, room)), height=alt.Step(21))
        step = 36 if narrow and len(layers) <= 6 else 60
        return alt.layer(cell, text).properties(width=alt.Step(step), height=alt.Step(21))

    return figure(
        "heat-map",
        f"Change in cosine to the source, {contrast_name(analysis.treated, analysis.control)}, by persona "
        "and decoder block; bystanders first, then negatives and references, each by size. Orange is "
        "closer, blue is farther.",
        "A table of signed cosine differences by persona and layer.",
        draw,
    )
