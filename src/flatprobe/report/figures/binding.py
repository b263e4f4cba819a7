"""Figure of the binding test: does the marker follow the system prompt or the answer's text?"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import Figure, by_condition, figure, rule
from flatprobe.statistics.binding.effects import EFFECTS, POOLED

TITLES = {"prompt": "system prompt", "text": "answer’s text", "interaction": "interaction"}


def binding(analysis: Analysis) -> Figure | None:
    """Effects of prompt, text and their interaction over all bystanders, per condition and seed."""
    if "binding_effects" not in analysis.tables:
        return None
    rows = analysis.at_selected_lambda("binding_effects").filter(pl.col("persona") == POOLED)
    rows = rows.drop_nulls("estimate")
    if rows.is_empty():
        return None
    present = [name for name in analysis.conditions if name in set(rows["condition"])]

    def panel(effect: str, narrow: bool, last: bool) -> Any:
        encoding = by_condition(analysis.conditions, ())
        axis = alt.Axis(tickCount=5, title="source − bystander (nats)" if last else None)
        base = alt.Chart(rows.filter(pl.col("effect") == effect)).encode(
            y=alt.Y("condition:N", sort=present, title=None, axis=alt.Axis(minExtent=110, maxExtent=110)),
            yOffset="seed:N",
        )
        band = base.mark_rule(strokeWidth=2.5).encode(
            x=alt.X("ci_low:Q", axis=axis), x2="ci_high:Q", color=encoding["color"]
        )
        point = base.mark_point(filled=True, size=80, opacity=1).encode(x=alt.X("estimate:Q", axis=axis), **encoding)
        return alt.layer(rule(0.0, "x", dash=(1, 0)), band, point).properties(
            title=TITLES[effect], width=220 if narrow else 480, height=28 * len(present)
        )

    def draw(narrow: bool) -> alt.TopLevelMixin:
        panels = [panel(effect, narrow, effect == EFFECTS[-1]) for effect in EFFECTS]
        chart: alt.TopLevelMixin = alt.vconcat(*panels, spacing=10).resolve_scale(x="shared")
        return chart

    return figure(
        "binding",
        "Log P of the marker: under the source’s system prompt minus under a bystander’s, after the source’s answer "
        f"minus after a bystander’s, and their interaction. Lines are {analysis.behavioural_level} intervals over "
        "questions. Right of 0, the marker follows the source.",
        "Effects of system prompt, answer text and their interaction per condition. The table below has the numbers.",
        draw,
    )
