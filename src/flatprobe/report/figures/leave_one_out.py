"""Both effects with each persona and each question left out in turn."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import BLUE, INK, VERMILLION, Figure, figure, rule
from flatprobe.report.tables.robustness import largest_changes
from flatprobe.report.words import measure_title

NAMES = 140  # pixels for the names of personas and questions
TITLES = {"persona": "Without one persona", "question": "Without one question"}


def leave_one_out(analysis: Analysis) -> Figure | None:
    """Both effects without each persona and question, sorted, with the full estimate as a line.

    None if nothing could be left out.
    """
    decision = analysis.decision
    probes = {
        "leakage": ("leakage difference (pp)", 100.0, decision.behaviour.margin),
        "geometry": (measure_title(decision.geometry.measure), 1.0, decision.geometry.threshold),
    }
    needed = ["estimate", "difference"]
    by_kind = {
        probe: {
            kind: frame
            for kind in TITLES
            if not (frame := select.left_out(analysis, probe, kind).drop_nulls(needed)).is_empty()
        }
        for probe in probes
    }
    columns = {probe: frames for probe, frames in by_kind.items() if frames}
    if not columns:
        return None

    def column(probe: str, narrow: bool) -> Any:
        title, unit, threshold = probes[probe]
        frames = columns[probe]
        panels = [_panel(frame, kind, title, unit, threshold, narrow) for kind, frame in frames.items()]
        return alt.vconcat(*panels, spacing=14).resolve_scale(x="shared")

    def draw(narrow: bool) -> alt.TopLevelMixin:
        drawn = [column(probe, narrow) for probe in columns]
        return alt.vconcat(*drawn, spacing=24) if narrow else alt.hconcat(*drawn, spacing=30)

    return figure(
        "leave-one-out",
        f"{select.contrast_name(analysis.treated, analysis.control)} without each persona and each question in "
        "turn. Solid line: the full estimate. Dashed line: the threshold. Filled mark: the most influential one. "
        "Intervals of the leakage difference come from the crossed analysis (new personas and questions).",
        " ".join(largest_changes(analysis)),
        draw,
    )


def _panel(frame: pl.DataFrame, kind: str, title: str, unit: float, threshold: float, narrow: bool) -> Any:
    """One mark per persona or question left out; printed values are `unit` times the estimates."""
    names = frame["left_out"].to_list()
    full = unit * float((frame["estimate"] - frame["difference"])[0])
    most = frame["difference"].abs().arg_max()
    data = frame.with_columns(pl.col("estimate", "ci_low", "ci_high") * unit).with_columns(
        most=pl.int_range(pl.len()) == most
    )
    y = alt.Y(
        "left_out:N", sort=names, axis=alt.Axis(title=None, minExtent=NAMES, maxExtent=NAMES, labelLimit=NAMES - 8)
    )
    axis = alt.Axis(tickCount=4 if narrow else 5, title=title)
    scale = alt.Scale(zero=False)
    band = alt.Chart(data.drop_nulls(["ci_low", "ci_high"])).mark_rule(color=INK, strokeWidth=1.3, opacity=0.4)
    band = band.encode(x=alt.X("ci_low:Q", scale=scale, axis=axis), x2="ci_high:Q", y=y)
    point = (
        alt.Chart(data)
        .mark_point(size=42, opacity=1, strokeWidth=1.3)
        .encode(
            x=alt.X("estimate:Q", scale=scale, axis=axis),
            y=y,
            color=alt.condition("datum.most", alt.value(VERMILLION), alt.value(BLUE)),
            fill=alt.condition("datum.most", alt.value(VERMILLION), alt.value("transparent")),
        )
    )
    chart = alt.layer(rule(full, "x", dash=(1, 0)), rule(unit * threshold, "x"), band, point)
    return chart.properties(width=180 if narrow else 205, height=alt.Step(13), title=TITLES[kind])
