"""Profiles by layer: one small panel per measure, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl

from flatprobe.report.figures.theme import Figure, by_condition, figure, lines_by_condition, rule

FEW = 12
"""Up to so many layers have a mark and an interval each; more are a line in a band."""
HEIGHT = 110
NUMBERS = 46
"""Pixels for the numbers of an axis; equal in all panels, so that the panels align."""


@dataclass(frozen=True)
class Profile:
    """One panel: the rows of one measure."""

    name: str
    title: str
    null: float | None
    """The value of no change, drawn as a line; None for a value that is not a change."""


def draw_profiles(
    name: str,
    caption: str,
    frame: pl.DataFrame,
    profiles: Sequence[Profile],
    conditions: Sequence[str],
    all_conditions: Sequence[str],
) -> Figure | None:
    """Columns of `frame`: condition, measure, layer, value, ci_low, ci_high (null if unknown).

    The caption names measures without any value; they have no panel. None if no measure has a value.
    """
    layers = sorted(frame["layer"].unique().to_list())
    values = frame.select("condition", "measure", "layer", "value", "ci_low", "ci_high").sort("layer")
    defined = set(values.drop_nulls("value")["measure"])
    empty = [profile.title for profile in profiles if profile.name not in defined]
    profiles = [profile for profile in profiles if profile.name in defined]
    if not profiles:
        return None
    columns = {False: 3, True: 1}

    def draw(narrow: bool) -> alt.TopLevelMixin:
        per_row = columns[narrow]
        panels = [
            _panel(
                values.filter(measure=profile.name),
                profile,
                layers,
                conditions,
                all_conditions,
                width=270 if narrow else 205,
                titled=index + per_row >= len(profiles),
            )
            for index, profile in enumerate(profiles)
        ]
        rows = [panels[start : start + per_row] for start in range(0, len(panels), per_row)]
        return alt.vconcat(*(alt.hconcat(*row, spacing=22) for row in rows), spacing=14)

    gappy = sorted({profile.title for profile in profiles if values.filter(measure=profile.name)["value"].null_count()})
    gaps = f" Undefined in the layers of a gap: {', '.join(gappy)}." if gappy else ""
    nowhere = f" Undefined in every layer: {', '.join(empty)}." if empty else ""
    return figure(
        name,
        caption + gaps + nowhere,
        f"{len(profiles)} small panels over {len(layers)} layers. The tables per layer have the values.",
        draw,
    )


def _panel(
    frame: pl.DataFrame,
    profile: Profile,
    layers: Sequence[int],
    conditions: Sequence[str],
    all_conditions: Sequence[str],
    *,
    width: int,
    titled: bool,
) -> Any:
    few = len(layers) <= FEW
    # marks of several conditions at one layer stand side by side
    apart = 0.0 if len(layers) < 2 or not few else 0.09 * min(b - a for a, b in pairwise(layers))
    places = {name: (at - (len(conditions) - 1) / 2) * apart for at, name in enumerate(conditions)}
    placed = frame.with_columns(
        at=pl.col("layer") + pl.col("condition").replace_strict(places, return_dtype=pl.Float64)
    )
    named = conditions if len(conditions) > 1 else ()
    half = 0.5 if len(layers) < 2 else 0.04 * (layers[-1] - layers[0])
    axis = alt.Axis(
        values=list(layers) if len(layers) <= 8 else alt.Undefined, tickMinStep=1, format="d", tickCount=6, grid=False
    )
    x = alt.X(
        "at:Q",
        title="layer" if titled else None,
        axis=axis,
        scale=alt.Scale(domain=[layers[0] - half, layers[-1] + half], nice=False, zero=False),
    )
    y = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(zero=False),
        axis=alt.Axis(tickCount=4, minExtent=NUMBERS, maxExtent=NUMBERS),
    )
    base = alt.Chart(placed).encode(x=x)
    parts: list[Any] = [] if profile.null is None else [rule(profile.null, "y", dash=(1, 0))]
    if few:
        encoding = by_condition(all_conditions, named)
        line = base.mark_line(strokeWidth=1.3).encode(y=y, color=encoding["color"])
        interval = base.mark_rule(strokeWidth=1.4).encode(y="ci_low:Q", y2="ci_high:Q", color=encoding["color"])
        point = base.mark_point(filled=True, size=38, opacity=1).encode(y=y, **encoding)
        parts += [line, interval, point]
    else:
        encoding = lines_by_condition(all_conditions, named)
        band = base.mark_area(opacity=0.22).encode(y="ci_low:Q", y2="ci_high:Q", color=encoding["color"])
        line = encoding if named else {"color": encoding["color"]}  # a single line is solid
        between_gaps = base.mark_point(filled=True, size=7, opacity=1).encode(y=y, color=encoding["color"])
        parts += [band, base.mark_line(strokeWidth=1.4).encode(y=y, **line), between_gaps]
    return alt.layer(*parts).properties(width=width, height=HEIGHT, title=alt.TitleParams(profile.title, frame="group"))
