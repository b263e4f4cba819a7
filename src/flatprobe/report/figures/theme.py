"""The style of all figures, and the conversion of Altair charts to SVG.

Text and axes have the colour `currentColor`, so one SVG suits light and dark pages. Conditions differ in shape as well
as in colour (palette of Okabe and Ito, 2008).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair as alt
import polars as pl
import vl_convert

INK = "currentColor"
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("circle", "diamond", "triangle-up", "square", "cross", "triangle-down")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])

_AXIS = {
    "labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK, "gridColor": INK,
    "domainOpacity": 0.4, "tickOpacity": 0.4, "gridOpacity": 0.12, "labelFontSize": 12, "titleFontSize": 12,
    "titleFontWeight": "normal", "labelLimit": 170, "labelFlush": False,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "background": None,
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": _AXIS,
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6, "titlePadding": 12},
    "legend": {
        "labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "orient": "top",
        "titleFontWeight": "normal", "symbolSize": 90, "labelLimit": 240, "columnPadding": 14,
    },
    "header": {
        "labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12,
        "labelFontWeight": "bold", "labelLimit": 320,
    },
    "title": {"color": INK, "fontSize": 12, "anchor": "start", "fontWeight": "bold", "offset": 8},
    "text": {"fontSize": 12},
}  # fmt: skip

Draw: TypeAlias = Callable[[bool], alt.TopLevelMixin]
"""Draws a chart; True for the narrow version, for screens of about 390 px."""


@dataclass(frozen=True)
class Figure:
    """A finished figure: its texts and two static SVGs. The page shows the one that fits."""

    name: str
    """Identifier, unique in the page."""
    caption: str
    """The text below the figure: what it shows and how to read it."""
    description: str
    """Its content in words, for readers who cannot see it."""
    wide: str
    narrow: str


def figure(name: str, caption: str, description: str, draw: Draw) -> Figure:
    """Render both versions of a chart."""
    return Figure(name, caption, description, _svg(draw(False), f"{name}-w"), _svg(draw(True), f"{name}-n"))


def _svg(chart: alt.TopLevelMixin, prefix: str) -> str:
    with alt.data_transformers.disable_max_rows():
        spec = chart.to_dict()
    spec["config"] = CONFIG
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return _responsive(vl_convert.vegalite_to_svg(spec, vl_version=version), prefix)


def _responsive(svg: str, prefix: str) -> str:
    """Make the SVG scale with its column, and its element ids unique in the page."""
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r' (?:role|aria-[a-z]+)="[^"]*"', "", svg)
    return re.sub(
        r'^<svg ([^>]*?)width="([\d.]+)" height="[\d.]+"',
        r'<svg \1aria-hidden="true" style="max-width:\2px"',
        svg,
        count=1,
    )


def condition_scales(conditions: Sequence[str]) -> tuple[alt.Scale, alt.Scale, alt.Scale]:
    """Colour, shape and dash of each condition, the same in every figure; colours repeat with new shapes."""
    domain, size = list(conditions), len(COLOURS)
    rotated = [(index + index // size) % size for index in range(len(domain))]
    return (
        alt.Scale(domain=domain, range=[COLOURS[index % size] for index in range(len(domain))]),
        alt.Scale(domain=domain, range=[SHAPES[index] for index in rotated]),
        alt.Scale(domain=domain, range=[DASHES[index] for index in rotated]),
    )


def by_condition(conditions: Sequence[str], legend: Sequence[str]) -> dict[str, Any]:
    """Encodings of conditions by colour and shape. `legend` lists the conditions of the legend; empty for no legend."""
    colour, shape, _ = condition_scales(conditions)
    entry = alt.Legend(title=None, symbolOpacity=1, values=list(legend)) if legend else None
    return {
        "color": alt.Color("condition:N", scale=colour, legend=entry),
        "shape": alt.Shape("condition:N", scale=shape, legend=entry),
    }


def lines_by_condition(conditions: Sequence[str], legend: Sequence[str]) -> dict[str, Any]:
    """Encodings of lines by colour and dash. `legend` lists the conditions of the legend; empty for no legend."""
    colour, _, dash = condition_scales(conditions)
    entry = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=2, symbolOpacity=1, values=list(legend))
    return {
        "color": alt.Color("condition:N", scale=colour, legend=entry if legend else None),
        "strokeDash": alt.StrokeDash("condition:N", scale=dash, legend=entry if legend else None),
    }


def grid(panels: int, narrow: bool) -> tuple[int, int]:
    """(columns, width of a panel in pixels) of a faceted figure, such that no row is nearly empty."""
    if narrow:
        return 1, 240
    columns = panels if panels < 4 else 2 if panels in (4, 8) else 3
    return columns, {1: 600, 2: 270, 3: 165}[columns]


def rule(value: float, channel: str, *, dash: Sequence[int] = (4, 3)) -> alt.Chart:
    """A thin line across the view at a threshold; `channel` is `x` or `y`."""
    base = alt.Chart(pl.DataFrame({"at": [value]})).mark_rule(color=INK, opacity=0.65, strokeDash=list(dash))
    line: alt.Chart = base.encode(x="at:Q") if channel == "x" else base.encode(y="at:Q")
    return line
