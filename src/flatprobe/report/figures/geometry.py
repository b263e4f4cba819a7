"""Figures by layer at the deciding position and responses: cosines, reliability and effects."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import Figure, by_condition, figure, rule
from flatprobe.report.select import geometric
from flatprobe.report.words import measure_title
from flatprobe.statistics.estimate import estimates_frame

WIDTH_WIDE, WIDTH_NARROW, HEIGHT = 290, 270, 190


def _layer_axis(layers: list[int]) -> alt.X:
    return alt.X("layer:O", title="layer", sort=layers, axis=alt.Axis(labelAngle=0, labelOverlap=True))


def by_layer(analysis: Analysis) -> Figure:
    """Mean cosine of source and bystanders, and split-half reliability, per layer and condition."""
    frame = analysis.at_registered_position("geometry").sort("layer")
    layers = frame["layer"].unique(maintain_order=True).to_list()
    gate = analysis.decision.gates.reliability

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
        reliability = panel("reliability", f"Split-half reliability (dashed: {gate:g})", narrow, [rule(gate, "y")])
        return alt.vconcat(cosine, reliability) if narrow else alt.hconcat(cosine, reliability, spacing=36)

    return figure(
        "cosine-by-layer",
        "Mean cosine of source and bystander centroids by layer, and split-half reliability of the centroids, at "
        f"{analysis.position}, {analysis.responses} responses.",
        "Mean cosine and reliability by layer, one line per condition. The table per layer has the values.",
        draw,
    )


def effect_by_layer(analysis: Analysis) -> Figure:
    """The deciding measure per layer with its interval, for treated − control and benign − control."""
    measure = analysis.decision.geometry.measure
    arms = [name for name in (analysis.treated, analysis.benign) if name is not None]
    rows = estimates_frame([e for arm in arms for e in geometric(analysis, arm, analysis.control, [measure])])
    rows = rows.drop_nulls(["layer", "estimate"]).with_columns(pl.col("treated").alias("condition")).sort("layer")
    layers = rows["layer"].unique(maintain_order=True).to_list()
    threshold = analysis.decision.geometry.threshold

    def draw(narrow: bool) -> alt.TopLevelMixin:
        offset = alt.XOffset("condition:N", sort=arms)
        encoding = by_condition(analysis.conditions, arms)
        base = alt.Chart(rows).encode(x=_layer_axis(layers), xOffset=offset)
        y = alt.Y("estimate:Q", title=measure_title(measure), axis=alt.Axis(tickCount=6))
        band = base.mark_rule(strokeWidth=1.6).encode(y="ci_low:Q", y2="ci_high:Q", color=encoding["color"])
        point = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, **encoding)
        lines = [rule(0.0, "y", dash=(1, 0)), rule(threshold, "y")]
        return alt.layer(*lines, band, point).properties(width=270 if narrow else 620, height=HEIGHT)

    return figure(
        "effect-by-layer",
        f"{measure_title(measure).capitalize()} against {analysis.control} by layer, with "
        f"{analysis.geometric_level} intervals over questions. Dashed: the threshold of "
        f"{threshold:g} for the mean over layers."
        + _undefined(rows, analysis.at_registered_position("geometry")["layer"], arms),
        f"Effect by layer for {' and '.join(arms)} against {analysis.control}. The table per layer has the values.",
        draw,
    )


def _undefined(rows: pl.DataFrame, layers: pl.Series, arms: list[str]) -> str:
    """A sentence on the layers without an estimate; empty if there are none."""
    drawn = set(zip(rows["treated"], rows["layer"], strict=True))
    missing = [
        f"{arm} at layer {', '.join(map(str, absent))}"
        for arm in arms
        if (absent := [layer for layer in layers.unique().sort() if (arm, layer) not in drawn])
    ]
    return f" Not drawn, because undefined: {'; '.join(missing)}." if missing else ""
