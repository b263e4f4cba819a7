"""Persona map, heat maps of cosines, profiles and labels, against the rows that they show."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.figures import personas
from flatprobe.report.figures.labels import CHARACTER, LINE, place_labels
from flatprobe.report.figures.profiles import Profile, draw_profiles


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def with_pairs(analysis: Analysis, frame: pl.DataFrame) -> Analysis:
    return dataclasses.replace(analysis, tables={**analysis.tables, "persona_pairs": frame})


def test_the_map_names_every_persona_once_and_states_its_own_error(analysis: Analysis) -> None:
    figure = personas.persona_map(analysis)
    assert figure is not None
    for svg in (figure.wide, figure.narrow):
        texts = labels(svg)
        assert all(texts.count(name) == 1 for name in analysis.tables["panel"]["persona"])
        assert set(analysis.conditions) <= set(texts) and "first axis (mean norms)" in texts
    assert "without scaling" in figure.caption and "set to 0" in figure.caption
    [negative] = re.findall(r"base_first [\d.]+ %, stress [\d.]+, negative ([\d.]+) %", figure.caption)
    assert float(negative) > 0  # one planted distance is


def test_the_map_shows_the_treated_personas_closer_to_the_source(analysis: Analysis) -> None:
    figure = personas.persona_map(analysis)
    assert figure is not None
    means = dict(re.findall(r"(\w+_first) (\d\.\d+)", figure.description))
    assert float(means["em_first"]) / float(means["base_first"]) == pytest.approx(0.7, abs=0.02)


def test_a_map_dominated_by_noise_has_a_warning(analysis: Analysis) -> None:
    pairs = analysis.tables["persona_pairs"]
    drawn = np.random.default_rng(0).normal(size=len(pairs))
    noise = pairs.with_columns(relative_squared_distance=pl.Series(drawn))
    noisy, planted = (personas.persona_map(one) for one in (with_pairs(analysis, noise), analysis))
    assert noisy is not None and planted is not None
    assert "do not interpret their movement" in noisy.caption and "do not interpret" not in planted.caption


def test_an_undefined_distance_in_one_layer_leaves_no_map(analysis: Analysis) -> None:
    distance = "relative_squared_distance"
    pairs = analysis.tables["persona_pairs"]
    hole = (pl.col("layer") == 14) & (pl.col("persona") == "librarian") & (pl.col("condition") == "em_first")
    frame = pairs.with_columns(pl.when(~hole).then(distance).alias(distance))
    assert personas.persona_map(with_pairs(analysis, frame)) is None


def test_the_heat_maps_show_every_condition_and_the_change(analysis: Analysis) -> None:
    figure = personas.cosine_pairs(analysis)
    texts = labels(figure.wide)
    assert {*analysis.conditions, "em_first \u2212 base_first", "cosine", "change of the cosine"} <= set(texts)
    pairs = analysis.at_registered_position("persona_pairs").pivot(
        on="condition", index=["persona", "other", "layer"], values="cosine"
    )
    change = pairs.group_by("persona", "other").agg((pl.col("em_first") - pl.col("base_first")).mean())
    top = change.sort("em_first").row(-1, named=True)
    assert f"{top['em_first']:+.4f}" in figure.description
    assert top["persona"] in figure.description and top["other"] in figure.description


def test_every_measure_of_the_study_has_a_profile(analysis: Analysis) -> None:
    others = personas.other_profiles(analysis)
    assert others is not None
    main = personas.main_profiles(analysis)
    assert main is not None
    texts = {*labels(main.wide), *labels(others.wide)}
    assert {"cosine difference", "contraction (−log scatter ratio)", "noise ratio", "contraction minus noise"} <= texts
    assert {"em_first", "benign_first"} <= texts


def profile_rows(layers: range) -> pl.DataFrame:
    values = [None if layer == 3 else 0.1 * layer for layer in layers]
    return pl.DataFrame(
        {
            "condition": "treated", "measure": "contraction", "layer": list(layers), "value": values,
            "ci_low": [None if v is None else v - 0.1 for v in values],
            "ci_high": [None if v is None else v + 0.1 for v in values],
        }
    )  # fmt: skip


def test_many_layers_are_a_line_in_a_band_with_few_numbers_and_few_are_marks() -> None:
    profiles = [Profile("contraction", "contraction", 0.0)]
    many, few = (
        draw_profiles("p", "Depth.", profile_rows(range(count)), profiles, ("treated",), ("base", "treated"))
        for count in (80, 6)
    )
    assert many is not None and few is not None
    assert "mark-area" in many.wide and "mark-area" not in few.wide
    assert "mark-symbol" in few.wide
    assert sum(text.isdigit() for text in labels(many.narrow)) < 20
    assert {"0", "1", "2", "3", "4", "5"} <= set(labels(few.wide))
    assert many.caption == "Depth. Undefined in the layers of a gap: contraction."


def test_names_beside_crowded_points_do_not_cover_each_other() -> None:
    generator = np.random.default_rng(0)
    names = [f"persona_{number}" for number in range(16)]
    points = [(float(x), float(y)) for x, y in generator.normal([320, 200], [90, 60], size=(16, 2))]
    spots = place_labels(names, points, [], size=(640.0, 400.0), font=11.5)
    half = (CHARACTER * 11.5 * len(names[0]) / 2, LINE * 11.5 / 2)
    for one, other in itertools.combinations(spots, 2):
        assert abs(one.x - other.x) >= 1.8 * half[0] or abs(one.y - other.y) >= 1.8 * half[1]
    for spot in spots:
        assert half[0] - 1 <= spot.x <= 641 - half[0] and half[1] - 1 <= spot.y <= 401 - half[1]


def test_a_measure_without_a_value_anywhere_has_no_panel_and_all_such_no_figure() -> None:
    rows = profile_rows(range(6))
    both = [Profile("contraction", "contraction", 0.0), Profile("noise_ratio", "noise ratio", 1.0)]
    empty = rows.with_columns(measure=pl.lit("noise_ratio"), value=pl.lit(None, dtype=pl.Float64))
    drawn = draw_profiles("p", "Depth.", pl.concat([rows, empty]), both, ("treated",), ("base", "treated"))
    assert drawn is not None and "noise ratio" not in labels(drawn.wide)
    assert drawn.caption.endswith("Undefined in every layer: noise ratio.")
    assert draw_profiles("p", "Depth.", empty, both, ("treated",), ("base", "treated")) is None
