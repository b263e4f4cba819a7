"""Heat maps of the cosine of every pair of personas, one per condition, and of the change between two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import numbers
from flatprobe.report.figures.theme import Figure, figure
from flatprobe.report.select import contrast_name

SQUARE, SQUARE_NARROW = 235, 210
"""Pixels of a panel's side, within the limits of `CELLS`."""
CELLS = (13, 24)
"""Pixels of a cell's side, at least and at most."""
NAMES = 128
"""Pixels for the names of personas."""
LEVELS = ["#f7fbff", "#9ecae1", "#4292c6", "#08519c", "#08306b"]
SMALLEST = 1e-6
"""End of the scale of changes if nothing changed."""
CHANGES = ["#2166ac", "#f7f7f7", "#e08214"]


def draw_cosine_pairs(pairs: pl.DataFrame, conditions: Sequence[str], treated: str, control: str) -> Figure:
    """From rows of a persona pair table at one position and kind of responses. Cosines are means over layers."""
    cosine = pl.col("cosine")
    means = pairs.group_by("condition", "persona", "other", maintain_order=True).agg(
        value=pl.when(cosine.is_not_null().all()).then(cosine.mean())
    )
    personas = list(dict.fromkeys([*pairs["persona"], *pairs["other"]]))
    levels = {name: _both_ways(means.filter(condition=name)) for name in conditions}
    change = (
        levels[treated]
        .join(levels[control], on=["persona", "other"], suffix="_control")
        .select("persona", "other", value=pl.col("value") - pl.col("value_control"))
    )
    cosines = pl.concat(levels.values())["value"].drop_nulls().to_list()
    domain = [min(cosines, default=0.0), max(cosines, default=1.0)]
    bound = max((abs(value) for value in change["value"].drop_nulls()), default=0.0) or SMALLEST
    panels = [
        *((levels[name], name, alt.Scale(domain=domain, range=LEVELS), "cosine") for name in levels),
        (
            change,
            contrast_name(treated, control),
            alt.Scale(domain=[-bound, 0, bound], range=CHANGES, interpolate="lab"),
            "change of the cosine",
        ),
    ]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        columns = 1 if narrow else 3 if len(panels) == 3 else 2
        drawn = [
            _panel(
                frame,
                title,
                scale,
                unit,
                personas,
                narrow=narrow,
                names=index % columns == 0,
                below=index + columns >= len(panels),
            )
            for index, (frame, title, scale, unit) in enumerate(panels)
        ]
        rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
        joined = [alt.hconcat(*row, spacing=18).resolve_scale(color="independent") for row in rows]
        whole: alt.VConcatChart = alt.vconcat(*joined, spacing=14).resolve_scale(color="independent")
        return whole

    most = change.drop_nulls("value").filter(pl.col("persona") < pl.col("other")).sort("value")
    return figure(
        "cosine-pairs",
        f"Cosine of the centroids of every pair of personas, mean over layers. {', '.join(conditions)} share one "
        f"colour scale. The last panel is the change {contrast_name(treated, control)}; orange is closer, blue is "
        "farther.",
        _description(most),
        draw,
    )


def _both_ways(frame: pl.DataFrame) -> pl.DataFrame:
    """Every pair in both orders, because the table has each pair once."""
    half = frame.select("persona", "other", "value")
    return pl.concat([half, half.select(persona="other", other="persona", value="value")])


def _panel(
    frame: pl.DataFrame,
    title: str,
    scale: alt.Scale,
    unit: str,
    personas: Sequence[str],
    *,
    narrow: bool,
    names: bool,
    below: bool,
) -> Any:
    least, most = (side * len(personas) for side in CELLS)
    size = min(max(SQUARE_NARROW if narrow else SQUARE, least), most)
    legend = alt.Legend(
        title=unit,
        orient="bottom",
        direction="horizontal",
        gradientLength=min(size - 10, 200),
        gradientThickness=9,
        tickCount=3,
        format=".2~f" if unit == "cosine" else "+.3~f",
        offset=6,
    )
    x_axis = alt.Axis(labelAngle=-90, labels=below or narrow, ticks=False, domain=False, labelFontSize=10)
    extent = NAMES if names else 0
    y_axis = alt.Axis(labels=names, ticks=False, labelFontSize=10, minExtent=extent, maxExtent=extent)
    return (
        alt.Chart(frame.drop_nulls("value"))
        .mark_rect()
        .encode(
            x=alt.X("other:N", title=None, sort=list(personas), axis=x_axis),
            y=alt.Y("persona:N", title=None, sort=list(personas), axis=y_axis),
            color=alt.Color("value:Q", scale=scale, legend=legend),
        )
        .properties(width=size, height=size, title=alt.TitleParams(title, frame="group", offset=6))
    )


def _description(change: pl.DataFrame) -> str:
    """The pairs with the largest rise and the largest fall."""
    if change.is_empty():
        return "No pair of personas has a cosine in both conditions."
    last, first = change.row(-1, named=True), change.row(0, named=True)
    return (
        f"Largest rise: {last['persona']} and {last['other']}, {numbers.signed(last['value'])}; largest fall or "
        f"smallest rise: {first['persona']} and {first['other']}, {numbers.signed(first['value'])}."
    )
