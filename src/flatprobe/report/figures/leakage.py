"""Behavioural figures: leakage by persona, selection of lambda, and dose."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis import Analysis
from flatprobe.report.figures.theme import (
    BLUE,
    GREEN,
    INK,
    VERMILLION,
    Figure,
    by_condition,
    figure,
    grid,
    lines_by_condition,
)

ROLE_TITLES = {
    "source": "Source",
    "bystander": "Bystanders (never trained on)",
    "negative": "Negatives (trained without the marker)",
    "reference": "References",
}


def leakage_by_persona(analysis: Analysis) -> Figure:
    """Marker rate per persona and condition at the selected lambda, beside the uncoupled false-positive
    baseline."""
    rates = analysis.at_selected_lambda("rates").filter(pl.col("coupled"))
    baseline = analysis.tables["rates"].filter(~pl.col("coupled"))
    order = (
        rates.group_by("persona").agg(pl.col("rate").mean()).sort("rate", "persona", descending=[True, False])
    )
    personas = order["persona"].to_list()
    present = [role for role in ROLE_TITLES if role in set(rates["role"])]

    def panel(role: str, narrow: bool, last: bool) -> Any:
        names = [name for name in personas if name in set(rates.filter(pl.col("role") == role)["persona"])]
        x_axis = alt.Axis(
            format="%", tickCount=5, labels=last, ticks=last, title=_title(narrow) if last else None
        )
        x = alt.X("rate:Q", scale=alt.Scale(domain=[0, 1]), axis=x_axis)
        y = alt.Y(
            "persona:N", sort=names, axis=alt.Axis(title=None, minExtent=130, maxExtent=130, labelLimit=150)
        )
        offset = alt.YOffset("condition:N", sort=list(analysis.conditions))
        data = alt.Chart(rates.filter(pl.col("role") == role))
        encoding = by_condition(analysis.conditions, analysis.conditions)
        band = data.mark_rule(strokeWidth=1.6, opacity=0.75).encode(
            x=alt.X("rate_low:Q", axis=x_axis), x2="rate_high:Q", y=y, yOffset=offset, color=encoding["color"]
        )
        point = data.mark_point(filled=True, size=46, opacity=1).encode(x=x, y=y, yOffset=offset, **encoding)
        tick = (
            alt.Chart(baseline.filter(pl.col("role") == role))
            .mark_tick(color=INK, thickness=1.5, height=7)
            .encode(x=x, y=y, yOffset=offset)
        )
        title = alt.TitleParams(ROLE_TITLES[role], anchor="start", frame="group", offset=4)
        return alt.layer(band, tick, point).properties(
            width=200 if narrow else 580, height=alt.Step(9), title=title
        )

    def draw(narrow: bool) -> alt.TopLevelMixin:
        return alt.vconcat(*(panel(role, narrow, role == present[-1]) for role in present), spacing=8)

    pooled = (
        rates.filter(pl.col("role") == "bystander")
        .group_by("condition")
        .agg(pl.col("hits", "total").sum())
        .to_dicts()
    )
    shares = {row["condition"]: numbers.percent(row["hits"] / row["total"]) for row in pooled}
    summary = ", ".join(f"{name} {shares[name]}" for name in analysis.conditions if name in shares)
    return figure(
        "leakage",
        "Share of completions with the marker, by persona and condition, at λ = "
        f"{analysis.selected_lambda:g}. Lines are 95 % intervals over questions; small upright ticks are "
        "the same cells on uncoupled checkpoints (false positives). Several seeds are drawn over each "
        "other.",
        f"Pooled bystander rates: {summary}. All values are in the table of rates.",
        draw,
    )


def _title(narrow: bool) -> str:
    return "marker rate" if narrow else "completions with the marker"


def lambda_selection(analysis: Analysis) -> Figure:
    """Source rate, mean negative rate and their difference with one standard error, per trained lambda."""
    names = {"source_rate": "source", "negative_rate": "negatives (mean)", "difference": "difference ± 1 SE"}
    rows = [
        {
            "lambda": row["lambda"],
            "what": name,
            "value": row[key],
            "low": row[key] - error,
            "high": row[key] + error,
        }
        for row in analysis.lambda_selection["candidates"]
        for key, name in names.items()
        for error in [
            row["standard_error"] if key == "difference" and row["standard_error"] is not None else 0.0
        ]
    ]
    domain = list(names.values())

    def draw(narrow: bool) -> alt.TopLevelMixin:
        legend = alt.Legend(title=None, columns=1 if narrow else 3)
        base = alt.Chart(pl.DataFrame(rows)).encode(
            x=alt.X("lambda:O", title="λ", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("what:N", sort=domain),
            color=alt.Color(
                "what:N", scale=alt.Scale(domain=domain, range=[BLUE, VERMILLION, GREEN]), legend=legend
            ),
        )
        y = alt.Y("value:Q", title="end-anchored rate", axis=alt.Axis(format="%", tickCount=5))
        point = base.mark_point(filled=True, size=70, opacity=1).encode(
            y=y,
            shape=alt.Shape(
                "what:N", scale=alt.Scale(domain=domain, range=["circle", "square", "diamond"]), legend=legend
            ),
        )
        error = base.mark_rule(strokeWidth=1.6).encode(
            y=alt.Y("low:Q", title="end-anchored rate"), y2="high:Q"
        )
        return alt.layer(error, point).properties(width=270 if narrow else 420, height=190)

    return figure(
        "lambda",
        "Selection of λ on the control, on calibration questions, on source and negatives only.",
        f"The selected λ is {analysis.selected_lambda:g}; the values are in the table below.",
        draw,
    )


def telemetry(analysis: Analysis) -> Figure | None:
    """Teacher-forced log P(separator + marker) by step, mean over personas of a role."""
    if "telemetry" not in analysis.tables:
        return None
    traces = _traces(analysis)
    roles = [role for role in ROLE_TITLES if role in set(traces["role"])]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        line = (
            alt.Chart(traces)
            .mark_line(strokeWidth=1.8)
            .encode(
                x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickCount=4)),
                y=alt.Y("log_p:Q", title="log P (nats)", axis=alt.Axis(tickCount=5)),
                detail="seed:N",
                **lines_by_condition(analysis.conditions, analysis.conditions),
            )
        )
        columns, width = grid(len(roles), narrow)
        facet = alt.Facet("role:N", title=None, sort=roles)
        chart: alt.TopLevelMixin = line.properties(width=width, height=130).facet(
            facet, columns=columns, spacing=14
        )
        return chart

    return figure(
        "telemetry",
        "Teacher-forced log P(separator + marker | own answer) on calibration questions while coupling at "
        f"λ = {analysis.selected_lambda:g}, mean over the personas of each role.",
        "Curves of the marker's log-probability by optimiser step, one per condition, one panel per role.",
        draw,
    )


def dose_response(analysis: Analysis) -> Figure | None:
    """Teacher-forced leakage against source acquisition at every saved step."""
    if "telemetry" not in analysis.tables:
        return None
    keys = ["condition", "seed", "step"]
    dose = _traces(analysis).pivot(on="role", index=keys, values="log_p").sort(keys)
    if not {"source", "bystander"} <= set(dose.columns):
        return None

    def draw(narrow: bool) -> alt.TopLevelMixin:
        base = alt.Chart(dose).encode(
            x=alt.X(
                "source:Q",
                title="source: log P (nats)",
                axis=alt.Axis(tickCount=5),
                scale=alt.Scale(zero=False),
            ),
            y=alt.Y("bystander:Q", title="bystanders: log P (nats)", scale=alt.Scale(zero=False)),
            order="step:Q",
            detail="seed:N",
        )
        encoding = by_condition(analysis.conditions, analysis.conditions)
        line = base.mark_line(strokeWidth=1.2, opacity=0.7).encode(color=encoding["color"])
        point = base.mark_point(filled=True, size=36, opacity=1).encode(**encoding)
        return alt.layer(line, point).properties(width=270 if narrow else 420, height=230)

    return figure(
        "dose",
        "Dose–response: how probable the marker is for bystanders against how strongly the source has "
        "acquired it, at every saved step. Conditions are comparable where they share a dose.",
        "Bystander log-probability of the marker against the source's, one path per condition.",
        draw,
    )


def _traces(analysis: Analysis) -> pl.DataFrame:
    """(condition, seed, role, step) means of telemetry at the selected lambda."""
    frame = analysis.at_selected_lambda("telemetry")
    return (
        frame.group_by("condition", "seed", "role", "step")
        .agg(pl.col("log_p").mean())
        .sort("condition", "step")
    )
