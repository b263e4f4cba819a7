"""Which known causes move each geometric measure, as a table and a figure.

    python benchmarks/what_moves.py --write docs/geometry.md

takes one to three minutes on one core, replaces the text between the page's markers and draws figures/what_moves.svg
next to the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

from flatprobe import console
from flatprobe.report.figures.theme import CONFIG, INK, VERMILLION
from flatprobe.report.numbers import decimal
from flatprobe.report.words import measure_title
from flatprobe.simulation.measure_responses import CAUSES, MOVES, SIZES, Cause, responses
from flatprobe.statistics.geometry.measures import MEASURES, RATIOS
from page_markers import around

BEGIN, END = "<!-- what moves: begin -->", "<!-- what moves: end -->"
DRAWN = (
    "cosine_difference",
    "crossvalidated_cosine_difference",
    "translation_share",
    "noise_share",
    "contraction",
    "unscaled_scatter_ratio",
    "noise_ratio",
    "contraction_minus_noise",
)
COLUMNS = (
    "contraction",
    "translation, length kept",
    "translation along",
    "rotation",
    "scale",
    "less noise",
    "fewer questions",
)
TITLES = {
    "cosine_difference": ["cosine", "difference"],
    "crossvalidated_cosine_difference": ["cross-validated", "cosine difference"],
    "translation_share": ["translation", "share"],
    "noise_share": ["noise share"],
    "contraction": ["contraction"],
    "unscaled_scatter_ratio": ["scatter ratio,", "not scaled"],
    "noise_ratio": ["noise ratio"],
    "contraction_minus_noise": ["contraction", "less noise"],
}
STILL, DARK = "#7a838c", "#22272b"
WIDTH, HEIGHT = 92, 58


def main() -> None:
    """Measure, and print the table or write it and the figure."""
    options = _options()
    before, after = around(options.write, BEGIN, END) if options.write else ("", "")
    frame = _measured(options.draws, options.seed)
    table = _table(frame, options.draws, options.seed)
    if options.write is None:
        console.say(table)
        return
    options.write.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")
    figure = options.write.parent / "figures" / "what_moves.svg"
    figure.parent.mkdir(exist_ok=True)
    figure.write_text(_figure(frame), encoding="utf-8")
    console.say(f"{options.write} and {figure}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=40, help="planted pairs per cause and dose")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="a page with the two markers")
    return parser.parse_args()


def _measured(draws: int, seed: int) -> pl.DataFrame:
    """Mean and SD over draws of every measure, by cause and dose. Ratios are averaged as logs."""
    rows = []
    for cause in CAUSES:
        for dose in cause.doses:
            for measure, values in responses(cause, dose, draws, seed).items():
                value, low, high = _band(values, ratio=measure in RATIOS)
                place = {"measure": measure, "cause": cause.name, "dose": float(dose)}
                rows.append(place | {"value": value, "low": low, "high": high})
    return pl.DataFrame(rows, infer_schema_length=None)


def _band(values: Sequence[float], *, ratio: bool) -> Sequence[float | None]:
    """The mean, and one standard deviation below and above it."""
    if not values:
        return None, None, None
    mean, spread = float(np.mean(values)), float(np.std(values))
    band = (mean, mean - spread, mean + spread)
    return [float(np.exp(end)) for end in band] if ratio else band


# --- the table


def _table(frame: pl.DataFrame, draws: int, seed: int) -> str:
    """Every measure at every cause's largest dose; bold where it moves."""
    heads = ["measure", *(_dose(cause) for cause in CAUSES)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * len(CAUSES)]
    for measure in MEASURES:
        cells = [_cell(frame, measure, cause) for cause in CAUSES]
        lines.append(f"| {measure_title(measure)} | " + " | ".join(cells) + " |")
    sizes = ", ".join(f"{name} {value:g}" for name, value in SIZES.items())
    return (
        "![Response of eight measures to seven causes in growing doses](figures/what_moves.svg)\n\n"
        f"Means over {draws} planted pairs (seed {seed}; {sizes}). Figure: bands are one standard deviation between "
        "pairs; measures that move are orange. Table: the largest dose; measures that move are bold. Without a change, "
        "differences and contractions are 0 and ratios (×) are 1. –: needs the same questions in both conditions.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _dose(cause: Cause) -> str:
    first, last = cause.doses[0], cause.doses[-1]
    return f"{cause.name}<br>{first:g} → {last:g}"


def _cell(frame: pl.DataFrame, measure: str, cause: Cause) -> str:
    [value] = frame.filter(measure=measure, cause=cause.name, dose=float(cause.doses[-1]))["value"]
    if value is None:
        return "–"
    ratio = measure in RATIOS
    text = f"×{decimal(value, 2)}" if ratio else decimal(value, 3, signed=True)
    return f"**{text}**" if cause.name in MOVES[measure] else text


# --- the figure


def _figure(frame: pl.DataFrame) -> str:
    """Small panels: a row per measure with one scale, a column per cause."""
    causes = [cause for cause in CAUSES if cause.name in COLUMNS]
    rows = []
    for number, measure in enumerate(DRAWN):
        bands = frame.filter(pl.col("cause").is_in(COLUMNS), measure=measure).drop_nulls("value")
        ends = [*bands["low"], *bands["high"], _null(measure)]
        scale = _scale(min(ends), max(ends), ratio=measure in RATIOS)
        panels = [
            _panel(frame, measure, cause, scale, first=column == 0, top=number == 0, bottom=number == len(DRAWN) - 1)
            for column, cause in enumerate(causes)
        ]
        rows.append(alt.hconcat(*panels, spacing=10))
    spec = alt.vconcat(*rows, spacing=8).to_dict()
    spec["config"] = {**CONFIG, "background": "white"}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2]))
    return svg.replace(INK, DARK)  # an image does not follow the page's text colour


def _scale(low: float, high: float, *, ratio: bool) -> alt.Scale:
    """With a little room. Ratios have a log scale: a half and a double are equally far from 1."""
    if ratio:
        return alt.Scale(type="log", domain=[low / 1.15, high * 1.15], nice=False)
    room = 0.06 * (high - low)
    return alt.Scale(domain=[low - room, high + room], nice=False)


def _null(measure: str) -> float:
    return 1.0 if measure in RATIOS else 0.0


def _panel(
    frame: pl.DataFrame, measure: str, cause: Cause, scale: alt.Scale, *, first: bool, top: bool, bottom: bool
) -> Any:
    colour = VERMILLION if cause.name in MOVES[measure] else STILL
    ends = sorted((float(cause.doses[0]), float(cause.doses[-1])))
    x = alt.X(
        "dose:Q",
        title=cause.unit if bottom else None,
        scale=alt.Scale(domain=ends, reverse=cause.doses[-1] < cause.doses[0], nice=False, zero=False),
        axis=alt.Axis(
            values=ends,
            labels=bottom,
            domain=bottom,
            ticks=bottom,
            grid=False,
            labelExpr="'' + datum.value",
            labelFontSize=10,
            titleFontSize=10,
            labelFlush=True,
        ),
    )
    axis = alt.Axis(
        labels=first,
        tickCount=3,
        titleAngle=0,
        titleAlign="right",
        titleX=-40,
        titleY=HEIGHT / 2,
        titlePadding=0,
        labelFontSize=10,
        titleFontSize=11,
        titleBaseline="middle",
        minExtent=140 if first else 0,
        values=[0.25, 0.5, 1, 2, 4, 8] if measure in RATIOS else alt.Undefined,
        format="~g",
    )
    y = alt.Y("value:Q", title=TITLES[measure] if first else None, scale=scale, axis=axis)
    values = frame.filter(measure=measure, cause=cause.name)
    rule = alt.Chart(pl.DataFrame({"value": [_null(measure)]})).mark_rule(color=INK, opacity=0.35).encode(y=y)
    if values["value"].null_count():
        absent = alt.Chart(pl.DataFrame({"value": [_null(measure)], "text": ["needs equal ones"]}))
        parts = [
            rule,
            absent.mark_text(fontSize=10, color=STILL, dy=-9, align="center").encode(
                x=alt.value(WIDTH / 2), y=y, text="text:N"
            ),
        ]
    else:
        base = alt.Chart(values).encode(x=x)
        parts = [
            rule,
            base.mark_area(opacity=0.25, color=colour).encode(
                y=alt.Y("low:Q", title=TITLES[measure] if first else None, scale=scale, axis=axis), y2="high:Q"
            ),
            base.mark_line(color=colour, strokeWidth=1.8).encode(y=y),
        ]
    panel = alt.layer(*parts).properties(width=WIDTH, height=HEIGHT)
    return panel.properties(title=alt.Title(cause.name, fontSize=11, anchor="middle", frame="group")) if top else panel


if __name__ == "__main__":
    main()
