"""Leakage by persona."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import INK, Figure, by_condition, figure

ROLE_TITLES = {
    "source": "Source",
    "bystander": "Bystanders (never trained on)",
    "negative": "Negatives (trained without the marker)",
    "reference": "References",
}


def leakage_by_persona(analysis: Analysis) -> Figure:
    """Marker rate per persona and condition at the selected lambda, beside the false positives."""
    rates = analysis.at_selected_lambda("rates").filter(pl.col("coupled"))
    baseline = analysis.tables["rates"].filter(~pl.col("coupled"))
    order = rates.group_by("persona").agg(pl.col("rate").mean()).sort("rate", "persona", descending=[True, False])
    personas = order["persona"].to_list()
    present = [role for role in ROLE_TITLES if role in set(rates["role"])]

    def panel(role: str, narrow: bool, last: bool) -> Any:
        names = [name for name in personas if name in set(rates.filter(pl.col("role") == role)["persona"])]
        x_axis = alt.Axis(format="%", tickCount=5, labels=last, ticks=last, title=_title(narrow) if last else None)
        x = alt.X("rate:Q", scale=alt.Scale(domain=[0, 1]), axis=x_axis)
        y = alt.Y("persona:N", sort=names, axis=alt.Axis(title=None, minExtent=130, maxExtent=130, labelLimit=150))
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
        return alt.layer(band, tick, point).properties(width=200 if narrow else 580, height=alt.Step(9), title=title)

    def draw(narrow: bool) -> alt.TopLevelMixin:
        return alt.vconcat(*(panel(role, narrow, role == present[-1]) for role in present), spacing=8)

    pooled = (
        rates.filter(pl.col("role") == "bystander").group_by("condition").agg(pl.col("hits", "total").sum()).to_dicts()
    )
    shares = {row["condition"]: numbers.percent(row["hits"] / row["total"]) for row in pooled}
    summary = ", ".join(f"{name} {shares[name]}" for name in analysis.conditions if name in shares)
    seeds = " Seeds are drawn over each other." if rates["seed"].n_unique() > 1 else ""
    return figure(
        "leakage",
        f"Share of completions with the marker, by persona and condition, at λ = {analysis.selected_lambda:g}. Lines "
        "are 95 % intervals over questions. Vertical ticks are the false positives: the same personas and questions "
        "on uncoupled checkpoints." + seeds,
        f"Bystander rates: {summary}. The table of rates has all values.",
        draw,
    )


def _title(narrow: bool) -> str:
    return "marker rate" if narrow else "completions with the marker"
