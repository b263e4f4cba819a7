"""The decision plane: geometric effect against leakage difference, over the regions of the registered rule."""

from __future__ import annotations

from typing import Any, NamedTuple

import altair as alt
import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import INK, Figure, condition_scales, figure, rule
from flatprobe.report.words import measure_title

NAME_SHARE = 0.36
"""Least share of the width left of the threshold, so that the names of the regions there fit."""


class Bounds(NamedTuple):
    """The part of the plane that is drawn, in the units of `Point`."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float


class Point(NamedTuple):
    """A result with both effects: the geometric one in its own units, the leakage difference in percentage points."""

    condition: str
    decides: bool
    x: float
    x_low: float | None
    x_high: float | None
    y: float
    y_low: float | None
    y_high: float | None


def decision_plane(analysis: Analysis) -> Figure:
    """Geometric effect against leakage difference, with thresholds, named regions and the kill region."""
    points = _points(analysis)
    bounds = _bounds(analysis, points)
    measure = measure_title(analysis.decision.geometry.measure)

    def draw(narrow: bool) -> alt.TopLevelMixin:
        width = 290 if narrow else 660
        layers = [
            *_regions(analysis, bounds, narrow),
            *_thresholds(analysis),
            *_results(analysis, points, bounds, width),
        ]
        chart: Any = alt.layer(*layers).resolve_scale(color="independent")
        titles = {"x": alt.X(title=measure), "y": alt.Y(title="leakage difference (pp)")}
        sized: alt.TopLevelMixin = chart.encode(**titles).properties(
            width=width, height=width * (0.85 if narrow else 0.6)
        )
        return sized

    descriptions = [
        f"{point.condition} against {analysis.control}: geometric effect {numbers.signed(point.x)} "
        f"{numbers.interval(point.x_low, point.x_high)}, leakage difference "
        f"{numbers.points(point.y / 100)}"
        for point in points
    ]
    return figure(
        "decision-plane",
        f"The regions of the registered rule, with effects against {analysis.control}. {_marks(analysis, points)} "
        "Dashed lines are thresholds. The region “falsified” also requires that no layer shows an effect. To pass, a "
        "result must also meet the rule’s conditions on interval and p, and its gates.",
        "; ".join(descriptions) or "No result has a place: an effect has no estimate.",
        draw,
    )


def _marks(analysis: Analysis, points: list[Point]) -> str:
    """What the marks are, or why the deciding one is missing."""
    intervals = f"{analysis.geometric_level} (horizontal) and {analysis.behavioural_level} (vertical) intervals"
    if not any(point.decides for point in points):
        first = f"The deciding result, {analysis.treated}, is not drawn: an effect has no estimate."
    else:
        first = f"The filled mark decides, with its {intervals}."
    others = any(not point.decides for point in points)
    return first + (" The open mark is the benign finetune and decides nothing here." if others else "")


def _points(analysis: Analysis) -> list[Point]:
    """The results with both effects, from the numbers behind the verdict."""
    contrasts = analysis.verdict.numbers
    arms = [(analysis.treated, contrasts.main)]
    if analysis.benign is not None and contrasts.benign_control is not None:
        arms.append((analysis.benign, contrasts.benign_control))
    points = []
    for arm, contrast in arms:
        geometry, behaviour = contrast.geometry, contrast.behaviour
        if geometry.effect is not None and behaviour.effect is not None:
            points.append(
                Point(
                    condition=arm,
                    decides=arm == analysis.treated,
                    x=geometry.effect,
                    x_low=geometry.ci_low,
                    x_high=geometry.ci_high,
                    y=100 * behaviour.effect,
                    y_low=_pp(behaviour.ci_low),
                    y_high=_pp(behaviour.ci_high),
                )
            )
    return points


def _pp(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _bounds(analysis: Analysis, points: list[Point]) -> Bounds:
    """Thresholds and intervals with a margin that leaves room for the name of every region."""
    decision = analysis.decision
    threshold, margin = decision.geometry.threshold, 100 * decision.behaviour.margin
    xs = [end for point in points for end in (point.x, point.x_low, point.x_high) if end is not None]
    ys = [end for point in points for end in (point.y, point.y_low, point.y_high) if end is not None]
    pad_x, pad_y = 1.3 * abs(threshold), max(margin, 10.0)
    x_high = max([threshold + pad_x, *(x + 0.3 * pad_x for x in xs)])
    room = threshold - NAME_SHARE / (1 - NAME_SHARE) * (x_high - threshold)
    return Bounds(
        min([decision.kill.geometry - pad_x, room, *(x - 0.2 * pad_x for x in xs)]),
        x_high,
        min([-0.9 * pad_y, *(y - 0.3 * pad_y for y in ys)]),
        max([margin + 1.1 * pad_y, *(y + 0.3 * pad_y for y in ys)]),
    )


def _regions(analysis: Analysis, bounds: Bounds, narrow: bool) -> list[alt.Chart]:
    decision = analysis.decision
    across, up = decision.geometry.threshold, 100 * decision.behaviour.margin
    kill_x, kill_y = decision.kill.geometry, 100 * decision.kill.leakage
    x_low, x_high, y_low, y_high = bounds
    regions = [
        ("flattened", across, x_high, up, y_high, "#D55E00", 0.16),
        ("geometry_only", across, x_high, y_low, up, "#CC79A7", 0.12),
        ("behaviour_only", x_low, across, up, y_high, "#E69F00", 0.12),
        ("falsified", x_low, kill_x, y_low, kill_y, "#0072B2", 0.16),
    ]
    boxes = [
        {"x": a, "x2": b, "y": c, "y2": d, "fill": fill, "opacity": opacity} for _, a, b, c, d, fill, opacity in regions
    ]
    names = [{"name": name, "x": a, "y": d} for name, a, _, _, d, _, _ in regions]
    names.append({"name": "inconclusive", "x": x_low, "y": up})
    x = alt.X("x:Q", scale=alt.Scale(domain=[x_low, x_high], nice=False), axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", scale=alt.Scale(domain=[y_low, y_high], nice=False), axis=alt.Axis(tickCount=7))
    box = (
        alt.Chart(pl.DataFrame(boxes))
        .mark_rect()
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=alt.Color("fill:N", scale=None),
            opacity=alt.Opacity("opacity:Q", scale=None),
        )
    )
    text = (
        alt.Chart(pl.DataFrame(names))
        .mark_text(
            align="left",
            baseline="top",
            dx=6,
            dy=6,
            color=INK,
            fontStyle="italic",
            fontSize=11 if narrow else 13,
            opacity=0.85,
        )
        .encode(x=x, y=y, text="name:N")
    )
    return [box, text]


def _thresholds(analysis: Analysis) -> list[alt.Chart]:
    decision = analysis.decision
    return [
        rule(decision.geometry.threshold, "x"),
        rule(100 * decision.behaviour.margin, "y"),
        rule(0.0, "x", dash=(1, 0)).encode(opacity=alt.value(0.3)),
        rule(0.0, "y", dash=(1, 0)).encode(opacity=alt.value(0.3)),
    ]


def _results(analysis: Analysis, points: list[Point], bounds: Bounds, width: int) -> list[alt.Chart]:
    colour, shape, _ = condition_scales(analysis.conditions)
    charts: list[alt.Chart] = []
    top = max((point.y for point in points), default=0.0)
    for point in sorted(points, key=lambda point: point.decides):
        opacity = 1.0 if point.decides else 0.75
        room = width * (bounds.x_high - point.x) / (bounds.x_high - bounds.x_low)
        left = room < 8 * len(point.condition)  # pixels that the name needs
        base = alt.Chart(pl.DataFrame([point._asdict()])).encode(
            color=alt.Color("condition:N", scale=colour, legend=None)
        )
        if point.x_low is not None:
            charts.append(base.mark_rule(strokeWidth=2, opacity=opacity).encode(x="x_low:Q", x2="x_high:Q", y="y:Q"))
        if point.y_low is not None:
            charts.append(base.mark_rule(strokeWidth=2, opacity=opacity).encode(x="x:Q", y="y_low:Q", y2="y_high:Q"))
        mark = base.mark_point(filled=point.decides, size=170 if point.decides else 110, opacity=opacity)
        charts.append(mark.encode(x="x:Q", y="y:Q", shape=alt.Shape("condition:N", scale=shape, legend=None)))
        text = alt.Chart(pl.DataFrame([point._asdict()])).mark_text(
            align="right" if left else "left",
            dx=-10 if left else 10,
            dy=-12 if point.y == top else 14,  # so that the names of two close results do not overlap
            color=INK,
            opacity=opacity,
            fontSize=12,
            fontWeight="bold" if point.decides else "normal",
        )
        charts.append(text.encode(x="x:Q", y="y:Q", text="condition:N"))
    return charts
