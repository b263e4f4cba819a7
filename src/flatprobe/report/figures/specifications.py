"""The specification curve: the leakage difference of every specification, sorted, with its choices below.

After Simonsohn, Simmons and Nelson (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import BLUE, INK, VERMILLION, Figure, figure, rule
from flatprobe.report.words import DETECTORS, spaced
from flatprobe.statistics.bootstrap import ROUNDING
from flatprobe.statistics.leakage.estimators import SCOPES

KINDS = ("registered", "other choices", "contaminated pool")
COLOUR = alt.Scale(domain=list(KINDS), range=[BLUE, INK, VERMILLION])
SHAPE = alt.Scale(domain=list(KINDS), range=["diamond", "circle", "cross"])
LABELS = 200  # pixels for the names of the choices
FIELDS = {
    "rank": pl.Int64, "kind": pl.String, "estimate": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64,
}  # fmt: skip

Choice = Callable[[Mapping[str, Any]], str]
CHOICES: dict[str, Choice] = {
    "weight": lambda row: f"λ = {row['lambda']:g}",
    "detector": lambda row: DETECTORS[row["detector"]],
    "pool": lambda row: select.pool_name(row["pool"], row["contaminated"]),
    "scope": lambda row: _scope(row["scope"]),
    "estimator": lambda row: spaced(row["estimator"]),
}
"""Kind of choice to the name of a specification's choice in the figure."""

ORDERS = {"weight": "lambda", "scope": "narrowness", "estimator": "narrowness"}
"""Kinds whose choices are sorted by a number, and its column. The others are sorted by name."""


@dataclass(frozen=True)
class Layout:
    """Specifications in a row or, in the narrow version, in a column; `across` is the other direction."""

    narrow: bool
    count: int

    @property
    def step(self) -> float:
        """Pixels of one specification."""
        return max(3.0, min(14.0, (620 if self.narrow else 560) / max(1, self.count)))

    @property
    def rank(self) -> dict[str, Any]:
        """The encoding of a specification's rank."""
        scale = alt.Scale(domain=[0.5, self.count + 0.5], nice=False, zero=False, reverse=self.narrow)
        channel = (alt.Y if self.narrow else alt.X)("rank:Q", scale=scale, axis=None)
        return {"y" if self.narrow else "x": channel}

    @property
    def side(self) -> str:
        """The channel of the other direction."""
        return "x" if self.narrow else "y"

    def across(self, field: str, axis: alt.Axis, **options: Any) -> dict[str, Any]:
        """The encoding of a field in the other direction."""
        return {self.side: (alt.X if self.narrow else alt.Y)(field, axis=axis, **options)}

    def size(self, across: float | alt.Step) -> dict[str, Any]:
        """Width and height of a panel."""
        along = self.step * max(1, self.count)
        return {"width": across, "height": along} if self.narrow else {"width": along, "height": across}


def _scope(scope: str) -> str:
    """A scope in short."""
    return scope.removesuffix(", these checkpoints").replace("(persona, question) ", "")


def specification_curve(analysis: Analysis) -> Figure:
    """Every specification of the deciding contrast by size, with its interval and a mark at each of its choices.

    The registered one is highlighted, and contaminated pools are marked.
    """
    rows, undefined = _sorted_rows(analysis)
    lines = [0.0, 100 * analysis.decision.behaviour.margin]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        layout = Layout(narrow, len(rows))
        panels = [_curve(rows, lines, layout), *(_matrix(rows, name, layout) for name in CHOICES)]
        return alt.hconcat(*panels, spacing=4) if narrow else alt.vconcat(*panels, spacing=4)

    name = select.contrast_name(analysis.treated, analysis.control)
    missing = f" {undefined} without an estimate are not drawn." if undefined else ""
    return figure(
        "specifications",
        f"Specification curve, {name}: every combination of λ, marker detector, pool and estimator, sorted by its "
        f"estimate, with {analysis.behavioural_level} intervals. Marks show the choices of each. The line through the "
        f"figure is the registered specification, the dashed line is the margin of {lines[1]:g} pp. Specifications "
        f"share data, so they are not independent results.{missing}",
        summary(analysis),
        draw,
    )


def summary(analysis: Analysis) -> str:
    """The estimates of uncontaminated pools and the registered one, in sentences."""
    frame = select.specifications(analysis, analysis.treated, analysis.control)
    clean = frame.filter(~pl.col("contaminated")).drop_nulls("estimate")
    if clean.is_empty():
        return "No specification of an uncontaminated pool has an estimate."
    margin = analysis.decision.behaviour.margin
    estimates = clean["estimate"].sort().to_list()
    least, most = numbers.points(estimates[0]), numbers.points(estimates[-1])
    above = clean.filter(pl.col("ci_low") > 0).height
    reach = clean.filter(pl.col("estimate") >= margin - ROUNDING).height
    estimate = clean.filter("registered")["estimate"].to_list()
    registered = f" The registered one gives {numbers.points(estimate[0])}." if estimate else ""
    return (
        f"{clean.height} specifications of uncontaminated pools have an estimate, from {least} to {most}; "
        f"{above} have their whole interval above 0, and {reach} reach the margin of "
        f"{numbers.plain_points(margin)}.{registered}"
    )


def _sorted_rows(analysis: Analysis) -> tuple[list[dict[str, Any]], int]:
    """The specifications with an estimate, with ranks from 1 and the names of their choices; and how many have none."""
    frame = select.specifications(analysis, analysis.treated, analysis.control)
    place = {name: at for at, name in enumerate(SCOPES)}
    estimated = [
        {**row, "narrowness": place.get(row["estimator"], len(place))}
        for row in frame.drop_nulls("estimate").to_dicts()
    ]
    keys = ("estimate", "contaminated", "lambda", "detector", "pool", "narrowness")
    estimated.sort(key=lambda row: tuple(row[key] for key in keys))
    rows = [
        {
            "rank": rank,
            "kind": KINDS[0 if row["registered"] else 2 if row["contaminated"] else 1],
            **{end: None if row[end] is None else 100 * row[end] for end in ("estimate", "ci_low", "ci_high")},
            **{name: choice(row) for name, choice in CHOICES.items()},
            **{name: row[name] for name in ORDERS.values()},
        }
        for rank, row in enumerate(estimated, start=1)
    ]
    return rows, frame.height - len(rows)


def _registered_line(rows: list[dict[str, Any]], layout: Layout) -> alt.Chart:
    ranks = [row["rank"] for row in rows if row["kind"] == KINDS[0]]
    data = pl.DataFrame({"rank": ranks}, schema={"rank": pl.Int64})
    line: alt.Chart = alt.Chart(data).mark_rule(color=BLUE, strokeWidth=2, opacity=0.8).encode(**layout.rank)
    return line


def _on_top(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The registered specification last, so that its mark is drawn over its neighbours'."""
    return sorted(rows, key=lambda row: bool(row["kind"] == KINDS[0]))


def _marked(width: float, registered: float) -> Any:
    """The size of a mark by its width in pixels: the registered specification's can be found among many."""
    return alt.condition(f"datum.kind === '{KINDS[0]}'", alt.value(registered**2), alt.value(width**2))


def _curve(rows: list[dict[str, Any]], lines: list[float], layout: Layout) -> Any:
    """Estimates in percentage points with their intervals."""
    data = pl.DataFrame([{name: row[name] for name in FIELDS} for row in _on_top(rows)], schema=FIELDS)
    axis = (
        alt.Axis(orient="top", tickCount=3, title="pp")
        if layout.narrow
        else alt.Axis(tickCount=6, title=None, minExtent=LABELS, maxExtent=LABELS)
    )
    legend = alt.Legend(title=None, columns=1 if layout.narrow else 3, symbolOpacity=1)
    colour = alt.Color("kind:N", scale=COLOUR, legend=legend)
    band = (
        alt.Chart(data.drop_nulls(["ci_low", "ci_high"]))
        .mark_rule(strokeWidth=max(1.0, 0.35 * layout.step), opacity=0.45)
        .encode(**layout.rank, **layout.across("ci_low:Q", axis), color=colour)
        .encode(**{f"{layout.side}2": "ci_high:Q"})
    )
    point = (
        alt.Chart(data)
        .mark_point(filled=True, opacity=1)
        .encode(
            **layout.rank,
            **layout.across("estimate:Q", axis),
            color=colour,
            size=_marked(min(8.0, 1.3 * layout.step), 12),
            shape=alt.Shape("kind:N", scale=SHAPE, legend=legend),
        )
    )
    thresholds = [rule(lines[0], layout.side, dash=(1, 0)).encode(opacity=alt.value(0.3)), rule(lines[1], layout.side)]
    title = "" if layout.narrow else "Leakage difference (pp)"
    return alt.layer(*thresholds, _registered_line(rows, layout), band, point).properties(
        **layout.size(100 if layout.narrow else 190), title=title
    )


def _matrix(rows: list[dict[str, Any]], name: str, layout: Layout) -> Any:
    """A mark at the choice that each specification made of one kind of choice."""
    by = ORDERS.get(name, name)
    choices = list(dict.fromkeys(row[name] for row in sorted(rows, key=lambda row: row[by])))
    data = pl.DataFrame(
        [{"rank": row["rank"], "kind": row["kind"], "choice": row[name]} for row in _on_top(rows)],
        schema={"rank": pl.Int64, "kind": pl.String, "choice": pl.String},
    )
    placed: dict[str, Any] = (
        {"orient": "top", "labelAngle": -90} if layout.narrow else {"minExtent": LABELS, "maxExtent": LABELS}
    )
    axis = alt.Axis(
        title=None,
        grid=True,
        domain=False,
        ticks=False,
        labelFontSize=9.5 if layout.narrow else 11,
        labelLimit=LABELS - 8,
        **placed,
    )
    marks = (
        alt.Chart(data)
        .mark_point(filled=True, opacity=1)
        .encode(
            **layout.rank,
            **layout.across("choice:N", axis, sort=choices),
            color=alt.Color("kind:N", scale=COLOUR, legend=None),
            shape=alt.Shape("kind:N", scale=SHAPE, legend=None),
            size=_marked(min(6.5, 0.95 * layout.step), 8),
        )
    )
    step = alt.Step(9.8 if layout.narrow else 13)
    return alt.layer(_registered_line(rows, layout), marks).properties(**layout.size(step))
