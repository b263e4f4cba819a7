"""Figures of the coupling: selection of lambda, and the marker's log P before and after coupling."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.leakage import ROLE_TITLES
from flatprobe.report.figures.theme import BLUE, GREEN, INK, VERMILLION, Figure, by_condition, figure


def lambda_selection(analysis: Analysis) -> Figure:
    """Source rate, mean negative rate, and their difference with its tie tolerance, per trained lambda."""
    names = {"source_rate": "source", "negative_rate": "negatives (mean)", "difference": "difference ± tie tolerance"}
    rows = [
        {"lambda": row["lambda"], "what": name, "value": row[key], "low": row[key] - error, "high": row[key] + error}
        for row in analysis.lambda_selection["candidates"]
        for key, name in names.items()
        for error in [row["tie_error"] if key == "difference" else 0.0]
    ]
    domain = list(names.values())
    lowest = min(0.0, *(row["low"] for row in rows))
    highest = max(1.0, *(row["high"] for row in rows))

    def draw(narrow: bool) -> alt.TopLevelMixin:
        legend = alt.Legend(title=None, columns=1 if narrow else 3)
        base = alt.Chart(pl.DataFrame(rows)).encode(
            x=alt.X("lambda:O", title="λ", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("what:N", sort=domain),
            color=alt.Color("what:N", scale=alt.Scale(domain=domain, range=[BLUE, VERMILLION, GREEN]), legend=legend),
        )
        y = alt.Y(
            "value:Q",
            title="end-anchored rate",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(domain=[lowest, highest]),
        )
        point = base.mark_point(filled=True, size=70, opacity=1).encode(
            y=y,
            shape=alt.Shape(
                "what:N", scale=alt.Scale(domain=domain, range=["circle", "square", "diamond"]), legend=legend
            ),
        )
        error = base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", title="end-anchored rate"), y2="high:Q")
        return alt.layer(error, point).properties(width=270 if narrow else 420, height=190)

    return figure(
        "lambda",
        "Selection of λ: control only, calibration questions, source and negatives.",
        f"The selected λ is {analysis.selected_lambda:g}. The table below has the values.",
        draw,
    )


def acquisition(analysis: Analysis) -> Figure | None:
    """Teacher-forced log P(separator + marker) of every persona, before and after coupling."""
    if "telemetry" not in analysis.tables:
        return None
    rows = _before_and_after(analysis)
    if rows.is_empty():
        return None
    present = [role for role in ROLE_TITLES if role in set(rows["role"])]
    lowest = min([*rows["before"].to_list(), *rows["after"].to_list()])

    def panel(role: str, narrow: bool, last: bool) -> Any:
        of_role = rows.filter(pl.col("role") == role)
        names = of_role.group_by("persona").agg(pl.col("after").mean()).sort("after", descending=True)["persona"]
        axis = alt.Axis(tickCount=5, labels=last, ticks=last, title="log P of the marker (nats)" if last else None)
        scale = alt.Scale(domain=[lowest, 0], nice=True)
        base = alt.Chart(of_role).encode(
            y=alt.Y(
                "persona:N",
                sort=names.to_list(),
                axis=alt.Axis(title=None, minExtent=130, maxExtent=130, labelLimit=150),
            ),
            yOffset=alt.YOffset("condition:N", sort=list(analysis.conditions)),
        )
        encoding = by_condition(analysis.conditions, analysis.conditions)
        way = base.mark_rule(strokeWidth=1.4, opacity=0.6).encode(
            x=alt.X("before:Q", axis=axis, scale=scale), x2="after:Q", color=encoding["color"]
        )
        start = base.mark_tick(color=INK, thickness=1.5, height=7).encode(x=alt.X("before:Q", axis=axis))
        end = base.mark_point(filled=True, size=46, opacity=1).encode(x=alt.X("after:Q", axis=axis), **encoding)
        title = alt.TitleParams(ROLE_TITLES[role], anchor="start", frame="group", offset=4)
        return alt.layer(way, start, end).properties(width=200 if narrow else 580, height=alt.Step(9), title=title)

    def draw(narrow: bool) -> alt.TopLevelMixin:
        panels = [panel(role, narrow, role == present[-1]) for role in present]
        chart: alt.TopLevelMixin = alt.vconcat(*panels, spacing=8).resolve_scale(x="shared")
        return chart

    source = rows.filter(pl.col("role") == "source")
    ends = ", ".join(f"{row['condition']} {row['after']:.1f}" for row in source.sort("condition").to_dicts())
    return figure(
        "acquisition",
        "Teacher-forced log P(separator + marker | own answer), mean over calibration questions, before (tick) and "
        f"after (mark) coupling at λ = {analysis.selected_lambda:g}. Conditions are comparable if the source’s marks "
        "agree. The dose–response curves below compare them at equal dose.",
        f"Log P of the marker before and after coupling. Source after coupling: {ends} nats.",
        draw,
    )


def _before_and_after(analysis: Analysis) -> pl.DataFrame:
    """Mean log P per condition, persona and role at each seed's first and last reading, over questions and seeds."""
    frame = analysis.at_selected_lambda("telemetry")
    run = ["condition", "seed"]
    first, last = pl.col("step").min().over(run), pl.col("step").max().over(run)
    return (
        frame.with_columns(is_first=pl.col("step") == first, is_last=pl.col("step") == last)
        .group_by("condition", "persona", "role", maintain_order=True)
        .agg(before=pl.col("log_p").filter("is_first").mean(), after=pl.col("log_p").filter("is_last").mean())
        .drop_nulls()
    )
