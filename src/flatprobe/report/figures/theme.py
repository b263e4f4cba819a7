"""The look of all figures, and the way from an Altair chart to SVG that follows the page's colours.

Text and axes are drawn in `currentColor`, so the same SVG reads on light and on dark paper. Conditions are
told apart by shape as well as by colour (Okabe and Ito's palette, 2008).
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
"""Draws a chart; the argument asks for the narrow cut, for screens of about 390 px."""


@dataclass(frozen=True)
class Figure:
    """A finished figure: two static SVGs, of which the page shows the one that fits, and its words."""

    name: str
    """Identifier, unique in the page."""
    caption: str
    """What is drawn and how to read it; printed below the figure."""
    description: str
    """What a reader who cannot see the figure needs: its content in words."""
    wide: str
    narrow: str


def figure(name: str, caption: str, description: str, draw: Draw) -> Figure:
    """Render both cuts of a chart."""
    return Figure(name, caption, description, _svg(draw(False), f"{name}-w"), _svg(draw(True), f"{name}-n"))


def _svg(chart: alt.TopLevelMixin, prefix: str) -> str:
    with alt.data_transformers.disable_max_rows():
        spec = chart.to_dict()
    spec["config"] = CONFIG
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return _responsive(vl_convert.vegalite_to_svg(spec, vl_version=version), prefix)


def _responsive(svg: str, prefix: str) -> str:
    """Let the SVG scale with its column, and keep its element ids apart from those of the page's other
    figures."""
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r' (?:role|aria-[a-z]+)="[^"]*"', "", svg)
    return re.sub(
        r'^<svg ([^>]*?)width="([\d.]+)" height="[\d.]+"',
        r'<svg \1aria-hidden="true" style="max-width:\2px"',
        svg,
        count=1,
    )


def condition_scales(conditions: Sequence[str]) -> tuple[alt.Scale, alt.Scale, alt.Scale]:
    """Colour, shape and dash of each condition, alike in every figure; past six, colours meet new shapes."""
    domain, size = list(conditions), len(COLOURS)
    turned = [(index + index // size) % size for index in range(len(domain))]
    return (
        alt.Scale(domain=domain, range=[COLOURS[index % size] for index in range(len(domain))]),
        alt.Scale(domain=domain, range=[SHAPES[index] for index in turned]),
        alt.Scale(domain=domain, range=[DASHES[index] for index in turned]),
    )


def by_condition(conditions: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
    """Encodings that tell conditions apart by colour and shape, with one legend of those shown (none for
    none)."""
    colour, shape, _ = condition_scales(conditions)
    entry = alt.Legend(title=None, symbolOpacity=1, values=list(shown)) if shown else None
    return {
        "color": alt.Color("condition:N", scale=colour, legend=entry),
        "shape": alt.Shape("condition:N", scale=shape, legend=entry),
    }


def lines_by_condition(conditions: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
    """Encodings that tell lines apart by colour and dash, with one legend of those shown (none for none)."""
    colour, _, dash = condition_scales(conditions)
    entry = alt.Legend(
        title=None, symbolType="stroke", symbolStrokeWidth=2, symbolOpacity=1, values=list(shown)
    )
    return {
        "color": alt.Color("condition:N", scale=colour, legend=entry if shown else None),
        "strokeDash": alt.StrokeDash("condition:N", scale=dash, legend=entry if shown else None),
    }


def grid(panels: int, narrow: bool) -> tuple[int, int]:
    """(columns, width of a panel) of a faceted figure, such that no row is left nearly empty."""
    if narrow:
        return 1, 240
    columns = panels if panels < 4 else 2 if panels in (4, 8) else 3
    return columns, {1: 600, 2: 270, 3: 165}[columns]


def rule(value: float, channel: str, *, dash: Sequence[int] = (4, 3)) -> alt.Chart:
    """A thin line across the view at a threshold; `channel` is `x` or `y`."""
    base = alt.Chart(pl.DataFrame({"at": [value]})).mark_rule(color=INK, opacity=0.65, strokeDash=list(dash))
    line: alt.Chart = base.encode(x="at:Q") if channel == "x" else base.encode(y="at:Q")
    return line
