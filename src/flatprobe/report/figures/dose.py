"""Figures of the telemetry: log P of the marker by step, and bystanders against the source."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.leakage import ROLE_TITLES
from flatprobe.report.figures.theme import INK, Figure, by_condition, figure, grid, lines_by_condition

ROLES = ("source", "negative", "bystander")


def telemetry(analysis: Analysis) -> Figure | None:
    """log P of separator and marker at every reading, a panel per role, a line per condition and seed."""
    if "telemetry" not in analysis.tables:
        return None
    rows = (
        analysis.at_selected_lambda("telemetry")
        .filter(pl.col("role").is_in(ROLES))
        .group_by("condition", "seed", "role", "step")
        .agg(pl.col("log_p").mean())
        .sort("condition", "seed", "role", "step")
    )
    if rows.is_empty():
        return None
    titles = [ROLE_TITLES[role].partition(" (")[0] for role in ROLES]
    rows = rows.with_columns(panel=pl.col("role").replace_strict(dict(zip(ROLES, titles, strict=True))))
    present = [name for name in analysis.conditions if name in set(rows["condition"])]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        columns, width = grid(len(titles), narrow)
        line = (
            alt.Chart(rows)
            .mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=22))
            .encode(
                x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickCount=4)),
                y=alt.Y("log_p:Q", title="log P (nats)", axis=alt.Axis(tickCount=5)),
                detail="seed:N",
                **lines_by_condition(analysis.conditions, present),
            )
        )
        facet = alt.Facet("panel:N", title=None, sort=titles)
        chart: alt.TopLevelMixin = line.properties(width=width, height=130).facet(facet, columns=columns, spacing=16)
        return chart

    return figure(
        "telemetry",
        "Telemetry of the coupling: log P(separator + marker | own answer) at every reading, on calibration questions, "
        f"teacher-forced. Means over the answers of a role; λ = {analysis.selected_lambda:g}.",
        "Log P of the marker by step for source, negatives and bystanders, one line per condition and seed.",
        draw,
    )


def dose_response(analysis: Analysis) -> Figure | None:
    """Bystanders against the source, a point per reading; the deciding contrast's gap as a vertical line."""
    rows = analysis.at_selected_lambda("dose_response").drop_nulls(["source_log_p", "leakage_log_p"])
    if rows.is_empty():
        return None
    gap = _deciding_gap(analysis)
    present = [name for name in analysis.conditions if name in set(rows["condition"])]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        x = alt.X("source_log_p:Q", title="source: log P of the marker (nats)", axis=alt.Axis(tickCount=6))
        y = alt.Y("leakage_log_p:Q", title="bystanders: log P (nats)", axis=alt.Axis(tickCount=6))
        base = alt.Chart(rows)
        lines = lines_by_condition(analysis.conditions, present)
        line = base.mark_line(strokeWidth=1.8).encode(x=x, y=y, order="step:Q", detail="seed:N", **lines)
        point = base.mark_point(filled=True, size=46, opacity=1).encode(
            x=x, y=y, **by_condition(analysis.conditions, ())
        )
        layers: list[Any] = [line, point]
        if gap is not None:
            layers += _gap_layers(gap)
        return alt.layer(*layers).properties(width=250 if narrow else 520, height=260)

    return figure(
        "dose-response",
        "Dose–response: log P of the marker under bystanders against log P under the source, at every reading "
        f"(teacher-forced, calibration questions, λ = {analysis.selected_lambda:g}). A higher curve leaks more at "
        f"equal dose. The number of epochs cannot cause such a gap. {_gap_sentence(gap)}",
        f"One curve per condition and seed. {_gap_sentence(gap)}",
        draw,
    )


def _deciding_gap(analysis: Analysis) -> dict[str, Any] | None:
    """The gap of the deciding contrast's first seed, at the registered log P or at the middle of the shared range.

    A gap with an interval is preferred; at the end of a curve it may be missing.
    """
    rows = analysis.tables["dose_gaps"].filter(
        (pl.col("treated") == analysis.treated) & (pl.col("control") == analysis.control) & pl.col("gap").is_not_null()
    )
    first = rows.filter(pl.col("seed") == pl.col("seed").min()).to_dicts()
    gaps = [row for place in ("registered", "50%") for row in first if row["place"].startswith(place)]
    complete = [row for row in gaps if row["ci_low"] is not None and row["ci_high"] is not None]
    return next(iter([*complete, *gaps]), None)


def _gap_layers(gap: dict[str, Any]) -> list[Any]:
    ends = pl.DataFrame(
        [{"x": gap["level"], "low": gap["control_log_p"], "high": gap["treated_log_p"], "text": _number(gap)}]
    )
    base = alt.Chart(ends)
    line = base.mark_rule(color=INK, strokeWidth=2).encode(x="x:Q", y="low:Q", y2="high:Q")
    label = base.mark_text(align="right", dx=-6, color=INK, fontSize=12).encode(x="x:Q", y="high:Q", text="text:N")
    return [line, label]


def _number(gap: dict[str, Any]) -> str:
    return f"{numbers.signed_nats(gap['gap'])} nats"


def _gap_sentence(gap: dict[str, Any] | None) -> str:
    if gap is None:
        return "The curves of the deciding contrast share no log P of the source, so there is no gap."
    name = select.contrast_name(gap["treated"], gap["control"])
    interval = numbers.interval(gap["ci_low"], gap["ci_high"], numbers.signed_nats)
    return (
        f"Vertical line: the gap {name} with both sources at {numbers.nats(gap['level'])} nats: "
        f"{_number(gap)}, interval {interval}, seed {gap['seed']}."
    )
