"""Figures of all personas and layers: persona map, heat maps of cosines, profiles of every measure."""

from __future__ import annotations

import polars as pl

from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.cosine_pairs import draw_cosine_pairs
from flatprobe.report.figures.persona_map import draw_persona_map
from flatprobe.report.figures.profiles import Profile, draw_profiles
from flatprobe.report.figures.theme import Figure
from flatprobe.report.select import geometric
from flatprobe.report.words import measure_title
from flatprobe.statistics.estimate import estimates_frame
from flatprobe.statistics.geometry.measures import MEASURES as KNOWN
from flatprobe.statistics.geometry.measures import RATIOS

MAIN = (
    "cosine_difference", "crossvalidated_cosine_difference", "translation_share", "noise_share", "contraction",
    "noise_ratio",
)  # fmt: skip
"""Measures whose profiles are always visible; the others are folded."""


def persona_map(analysis: Analysis) -> Figure | None:
    """All conditions' personas in one plane, the control as reference."""
    pairs = analysis.at_registered_position("persona_pairs")
    return draw_persona_map(pairs, analysis.conditions, analysis.conditions, source=analysis.source)


def cosine_pairs(analysis: Analysis) -> Figure:
    """The cosine of every pair per condition, and its change in the deciding contrast."""
    pairs = analysis.at_registered_position("persona_pairs")
    return draw_cosine_pairs(pairs, analysis.conditions, analysis.treated, analysis.control)


def main_profiles(analysis: Analysis) -> Figure | None:
    """The measures of `MAIN` by layer, treated and benign against the control; None if none is defined."""
    return _profiles(analysis, MAIN, "profiles")


def other_profiles(analysis: Analysis) -> Figure | None:
    """The other measures by layer; None if there are none."""
    return _profiles(analysis, [name for name in KNOWN if name not in MAIN], "profiles-others")


def profiles_of(measures: list[str]) -> list[Profile]:
    """Panels of measures of a change: ratios about 1, differences about 0."""
    return [Profile(name, measure_title(name), 1.0 if name in RATIOS else 0.0) for name in measures]


def _profiles(analysis: Analysis, measures: tuple[str, ...] | list[str], name: str) -> Figure | None:
    arms = [arm for arm in (analysis.treated, analysis.benign) if arm is not None]
    frame = estimates_frame([each for arm in arms for each in geometric(analysis, arm, analysis.control, measures)])
    frame = frame.filter(pl.col("layer").is_not_null()).select(
        "layer", "ci_low", "ci_high", condition="treated", measure="quantity", value="estimate"
    )
    present = [measure for measure in measures if measure in set(frame["measure"])]
    if not present:
        return None
    caption = (
        f"By layer, against {analysis.control}: each measure with its {analysis.geometric_level} interval over "
        "questions. Solid line: no change."
    )
    return draw_profiles(name, caption, frame, profiles_of(present), arms, analysis.conditions)
