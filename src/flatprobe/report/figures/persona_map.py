"""The persona map: every condition's personas in one plane, by classical scaling of unbiased squared distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import polars as pl

from flatprobe.report import numbers
from flatprobe.report.figures.labels import place_labels
from flatprobe.report.figures.theme import INK, Figure, by_condition, figure
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.persona_map import ConditionMap, persona_map

WIDE, NARROW = 640, 290
HEIGHTS = {WIDE: (0.45, 0.9), NARROW: (1.0, 1.5)}
"""Smallest and largest ratio of height to width; a narrow view needs more height for the names. Both axes have equal
units."""
MARGIN = 0.14
"""Room around the points for names, as a share of their extent."""
MUCH_NOISE = 0.2
"""Share of negative eigenvalues above which the caption warns: positive ones made by noise are about as large."""
NO_MAP = (
    "No persona map: a squared distance is undefined, or none is positive. The map needs at least two questions, and "
    "personas with different states."
)


def draw_persona_map(
    pairs: pl.DataFrame, conditions: Sequence[str], all_conditions: Sequence[str], *, source: str
) -> Figure | None:
    """From rows of a persona pair table at one position and kind of responses; None if `persona_map` is None.

    `conditions` are drawn, and the first of them is the reference; `all_conditions` gives every condition its colour.
    Distances are means over layers, in units of each condition's mean norm.
    """
    personas, squared = _matrices(pairs, conditions)
    placed = persona_map(squared, conditions[0])
    if placed is None:
        return None

    def draw(narrow: bool) -> alt.TopLevelMixin:
        return _chart(personas, placed, all_conditions, source, NARROW if narrow else WIDE)

    return figure("persona-map", _caption(placed, conditions), _description(personas, placed, source), draw)


def _matrices(pairs: pl.DataFrame, conditions: Sequence[str]) -> tuple[list[str], dict[str, Array]]:
    """Personas in the table's order, and per condition their squared distances; NaN if that of any layer is unknown."""
    distance = pl.col("relative_squared_distance")
    means = pairs.group_by("condition", "persona", "other", maintain_order=True).agg(
        distance=pl.when(distance.is_not_null().all()).then(distance.mean())
    )
    personas = list(dict.fromkeys([*pairs["persona"], *pairs["other"]]))
    squared = {}
    for condition in conditions:
        distances = np.full((len(personas), len(personas)), np.nan)
        np.fill_diagonal(distances, 0.0)
        for row in means.filter(condition=condition).to_dicts():
            if row["distance"] is not None:
                one, other = personas.index(row["persona"]), personas.index(row["other"])
                distances[one, other] = distances[other, one] = row["distance"]
        squared[condition] = distances
    return personas, squared


def _chart(
    personas: Sequence[str], placed: Mapping[str, ConditionMap], all_conditions: Sequence[str], source: str, width: int
) -> alt.TopLevelMixin:
    low, high, height = _view(placed, width)
    reference, *others = placed
    marks = [
        {"condition": name, "persona": persona, "x": point[0], "y": point[1], "x0": start[0], "y0": start[1]}
        for name in placed
        for persona, point, start in zip(
            personas, placed[name].points_P2.tolist(), placed[reference].points_P2.tolist(), strict=True
        )
    ]
    titles = {"x": "first axis (mean norms)", "y": "second axis (mean norms)"}
    x = alt.X("x:Q", title=titles["x"], scale=_scale(low[0], high[0]), axis=_axis())
    y = alt.Y("y:Q", title=titles["y"], scale=_scale(low[1], high[1]), axis=_axis())
    encoding = by_condition(all_conditions, list(placed))
    frame = alt.Chart(pl.DataFrame(marks, infer_schema_length=None))
    path = (  # under the points
        frame.transform_filter(f"datum.condition != {reference!r}")
        .mark_rule(strokeWidth=1.2, opacity=0.55)
        .encode(
            x=alt.X("x0:Q", title=titles["x"]),
            y=alt.Y("y0:Q", title=titles["y"]),
            x2="x:Q",
            y2="y:Q",
            color=encoding["color"],
        )
    )
    point = frame.mark_point(filled=True, size=55, opacity=0.95).encode(x=x, y=y, **encoding)
    font = 11.5 if width == WIDE else 9.5
    names = _names(personas, placed, low, high, (width, height), font)
    text = [
        alt.Chart(names.filter(pl.col("persona") == source if bold else pl.col("persona") != source))
        .mark_text(fontSize=font, fontWeight="bold" if bold else "normal", color=INK)
        .encode(x=x, y=y, text="persona:N")
        for bold in (True, False)
    ]
    return alt.layer(*([path] if others else []), point, *text).properties(width=width, height=height)


def _view(placed: Mapping[str, ConditionMap], width: int) -> tuple[Array, Array, int]:
    """Low and high ends of both axes, and the height that gives both equal units."""
    points = np.concatenate([one.points_P2 for one in placed.values()])
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1e-9 + 0.05 * (high - low).max())
    middle, extent = (low + high) / 2, extent * (1 + 2 * MARGIN)
    ratio = float(np.clip(extent[1] / extent[0], *HEIGHTS[width]))
    across = max(extent[0], extent[1] / ratio)
    half = np.array([across, across * ratio]) / 2
    return middle - half, middle + half, round(width * ratio)


def _names(
    personas: Sequence[str],
    placed: Mapping[str, ConditionMap],
    low: Array,
    high: Array,
    size: tuple[int, int],
    font: float,
) -> pl.DataFrame:
    """The place of each persona's name beside its reference point, in the units of the axes."""
    span, pixels = high - low, np.array(size)

    def to_pixels(points_P2: Array) -> list[tuple[float, float]]:
        shares = (points_P2 - low) / span
        return [(float(a * pixels[0]), float((1 - b) * pixels[1])) for a, b in shares]

    reference, *others = placed
    spots = place_labels(
        personas,
        to_pixels(placed[reference].points_P2),
        [spot for name in others for spot in to_pixels(placed[name].points_P2)],
        size=(float(size[0]), float(size[1])),
        font=font,
    )
    return pl.DataFrame(
        {
            "persona": list(personas),
            "x": [float(low[0] + spot.x / pixels[0] * span[0]) for spot in spots],
            "y": [float(low[1] + (1 - spot.y / pixels[1]) * span[1]) for spot in spots],
        }
    )


def _scale(low: float, high: float) -> alt.Scale:
    return alt.Scale(domain=[float(low), float(high)], nice=False, zero=False)


def _axis() -> alt.Axis:
    return alt.Axis(tickCount=5, labelFlush=True)


def _caption(placed: Mapping[str, ConditionMap], conditions: Sequence[str]) -> str:
    reference, *others = conditions
    quality = "; ".join(
        f"{name} {numbers.percent(one.shown)}, stress {numbers.decimal(one.stress, 2)}, negative "
        f"{numbers.percent(one.negative)}"
        + ("" if one.unaligned is None else f", not aligned {numbers.percent(one.unaligned)}")
        for name, one in placed.items()
    )
    alignment = (
        f" {' and '.join(others)} {'is' if len(others) == 1 else 'are'} rotated and reflected onto {reference} "
        "(Procrustes in all dimensions, without scaling), so a shorter distance is a real change. Lines join each "
        f"persona to its place in {reference}."
        if others
        else ""
    )
    return (
        "Persona map: classical multidimensional scaling of unbiased squared distances, mean over layers, in units of "
        f"each condition’s mean norm.{alignment} Noise makes some eigenvalues negative; they are set to 0. Variance "
        "that the plane shows, Kruskal’s stress of its distances, share of negative eigenvalues, and residual of the "
        f"alignment: {quality}.{_warning(placed)}"
    )


def _warning(placed: Mapping[str, ConditionMap]) -> str:
    """A warning if noise dominates the map; empty otherwise."""
    noisy = [name for name, one in placed.items() if one.negative > MUCH_NOISE]
    if not noisy:
        return ""
    return (
        f" The large negative share in {' and '.join(noisy)} means that noise dominates these places: do not interpret "
        "their movement."
    )


def _description(personas: Sequence[str], placed: Mapping[str, ConditionMap], source: str) -> str:
    at = list(personas).index(source)
    means = {
        name: float(np.delete(np.linalg.norm(one.points_P2 - one.points_P2[at], axis=1), at).mean())
        for name, one in placed.items()
    }
    listed = ", ".join(f"{name} {numbers.decimal(value)}" for name, value in means.items())
    return f"{len(personas)} personas; mean distance of {source} to the others here, in mean norms: {listed}."
