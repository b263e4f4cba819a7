"""Figures of a comparison of two checkpoints, at the position shown first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from flatprobe.report.comparison import REGISTERED, Compared
from flatprobe.report.figures.cosine_pairs import draw_cosine_pairs
from flatprobe.report.figures.persona_map import draw_persona_map
from flatprobe.report.figures.personas import MAIN, profiles_of
from flatprobe.report.figures.profiles import Profile, draw_profiles
from flatprobe.report.figures.theme import Figure
from flatprobe.statistics.geometry.measures import MEASURES
from flatprobe.study.panel import PRIMARY_POOL

SIDES = ("base", "treated")
LEVELS = (
    Profile("mean_cosine", "mean cosine, source to bystanders", None),
    Profile("reliability", "split-half reliability", None),
    Profile("separability", "separability", None),
)


def figures(compared: Compared) -> dict[str, Figure | None]:
    """All figures of the page, by name."""
    pairs = compared.persona_pairs.filter(position=compared.position, responses=compared.responses)
    return {
        "persona_map": draw_persona_map(pairs, SIDES, SIDES, source=compared.pair.source),
        "cosine_pairs": draw_cosine_pairs(pairs, SIDES, "treated", "base"),
        "levels": _levels(compared),
        "profiles": _profiles(compared, MAIN, "profiles"),
        "other_profiles": _profiles(
            compared, [name for name in MEASURES if name not in MAIN], "profiles-others"
        ),
    }


def _where(compared: Compared) -> str:
    return f"at {compared.position}, {compared.responses} responses"


def _levels(compared: Compared) -> Figure | None:
    rows = []
    for side in SIDES:
        for measure in ("mean_cosine", "reliability", "separability"):
            name, estimator = (
                ("cosine_difference", REGISTERED) if measure == "mean_cosine" else (measure, None)
            )
            for layer, row in compared.by_layer(
                name, compared.position, compared.responses, estimator
            ).items():
                if layer is not None:
                    rows.append(_row(side, measure, layer, row[side], None, None))
    return draw_profiles(
        "levels", f"Both checkpoints by decoder block, {_where(compared)}: descriptions without intervals.",
        _frame(rows), LEVELS, SIDES, SIDES,
    )  # fmt: skip


def _profiles(compared: Compared, measures: Sequence[str], name: str) -> Figure | None:
    wanted = set(measures)
    rows = [
        _row("treated", row["measure"], row["layer"], row["difference"], row["ci_low"], row["ci_high"])
        for row in compared.rows
        if row["measure"] in wanted and row["layer"] is not None and row["persona"] is None
        and (row["pool"], row["estimator"]) == (PRIMARY_POOL, REGISTERED)
        and (row["position"], row["responses"]) == (compared.position, compared.responses)
    ]  # fmt: skip
    return draw_profiles(
        name,
        f"Treated against base by decoder block, {_where(compared)}: each measure with its {compared.level} interval "
        "over questions. Horizontal line: no change.",
        _frame(rows),
        profiles_of(list(measures)),
        ("treated",),
        SIDES,
    )


def _row(
    condition: str, measure: str, layer: int, value: float | None, low: float | None, high: float | None
) -> dict[str, Any]:
    return {
        "condition": condition, "measure": measure, "layer": layer, "value": value, "ci_low": low, "ci_high": high,
    }  # fmt: skip


def _frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    schema = {
        "condition": pl.String, "measure": pl.String, "layer": pl.Int64, "value": pl.Float64, "ci_low": pl.Float64,
        "ci_high": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(list(rows), schema=schema)
