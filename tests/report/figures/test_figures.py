"""Figures and tables against the rows that they show."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.figures import coupling, geometry, plane, training
from flatprobe.report.figures.theme import condition_scales
from flatprobe.report.tables import geometry as tables_geometry
from flatprobe.report.tables import leakage as tables_leakage
from flatprobe.report.tables import legs as cards
from flatprobe.report.tables import run as tables_run


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def changed(analysis: Analysis, **geometry: Any) -> Analysis:
    """The analysis with other geometric evidence of the deciding contrast, and no benign contrast."""
    main = analysis.verdict.numbers.main
    main = dataclasses.replace(main, geometry=dataclasses.replace(main.geometry, **geometry))
    numbers = dataclasses.replace(analysis.verdict.numbers, benign_control=None, main=main)
    return dataclasses.replace(analysis, outcome=dataclasses.replace(analysis.verdict, numbers=numbers))


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_decision_plane_names_every_region_and_both_results(analysis: Analysis) -> None:
    texts = labels(plane.decision_plane(analysis).wide)
    assert {"flattened", "geometry_only", "behaviour_only", "falsified", "inconclusive"} <= set(texts)
    assert {"em_first", "benign_first"} <= set(texts)


def test_the_decision_plane_without_an_estimate_says_so_and_draws_no_point(analysis: Analysis) -> None:
    figure = plane.decision_plane(changed(analysis, effect=None))
    assert "No result has a place" in figure.description
    assert "The deciding result, em_first, is not drawn" in figure.caption
    assert "filled mark" not in figure.caption
    assert "em_first" not in labels(figure.wide)


def test_a_far_result_stays_inside_the_plane(analysis: Analysis) -> None:
    moved = changed(analysis, effect=0.9, ci_low=0.8, ci_high=1.0)
    bounds = plane._bounds(moved, plane._points(moved))
    assert bounds.x_low < 0 < 1.0 < bounds.x_high


def test_intervals_are_called_by_the_level_that_the_study_registers(analysis: Analysis) -> None:
    leg = {**analysis.study["decision"]["geometry"], "level": 0.9}
    study = {**analysis.study, "decision": {**analysis.study["decision"], "geometry": leg}}
    other = dataclasses.replace(analysis, study=study)
    geometric, behavioural = cards.legs(other)
    assert geometric.facts[0][0] == "90 % interval"
    assert behavioural.facts[0][0] == "95 % interval"
    assert "90 % (horizontal) and 95 % (vertical)" in plane.decision_plane(other).caption
    assert "90 % intervals" in geometry.effect_by_layer(other).caption
    assert "90 % interval" in tables_geometry.effects(other).caption
    assert "90 % interval" in [head for head, _ in tables_geometry.aggregates(other, registered=True).heads]
    assert "90 % intervals of the geometric effect" in cards.evidence(other).caption


def test_a_layer_without_an_estimate_is_named_below_the_figure(analysis: Analysis) -> None:
    undefined = (pl.col("layer") == 14) & (pl.col("treated") == "em_first")
    estimates = analysis.estimates.with_columns(estimate=pl.when(~undefined).then(pl.col("estimate")))
    figure = geometry.effect_by_layer(dataclasses.replace(analysis, estimates=estimates))
    assert "Not drawn, because undefined: em_first at layer 14." in figure.caption
    assert "undefined" not in geometry.effect_by_layer(analysis).caption


def test_acquisition_compares_each_seeds_first_step_with_its_last(analysis: Analysis) -> None:
    arm = {"condition": "em_first", "lambda": analysis.selected_lambda, "persona": "librarian", "role": "source"}
    steps = [(1, 0, -30.0), (1, 5, -9.0), (1, 60, -1.0), (2, 0, -32.0), (2, 40, -3.0)]
    telemetry = pl.DataFrame([{**arm, "seed": seed, "step": at, "log_p": p} for seed, at, p in steps])
    other = dataclasses.replace(analysis, tables={**analysis.tables, "telemetry": telemetry})
    (row,) = coupling._before_and_after(other).to_dicts()
    assert (row["before"], row["after"]) == (-31.0, -2.0)
    figure = coupling.acquisition(other)
    assert figure is not None
    assert figure.description.endswith("em_first -2.0 nats.")


def test_telemetry_of_other_lambdas_only_draws_no_acquisition(analysis: Analysis) -> None:
    telemetry = analysis.tables["telemetry"].with_columns(pl.lit(99.0).alias("lambda"))
    other = dataclasses.replace(analysis, tables={**analysis.tables, "telemetry": telemetry})
    assert coupling.acquisition(other) is None


def test_a_loss_of_one_term_is_drawn_once(analysis: Analysis) -> None:
    losses = analysis.tables["losses"].filter(pl.col("stage") == "finetune")
    doubled = pl.concat([losses, losses.with_columns(term=pl.lit("answer"))])
    other = dataclasses.replace(analysis, tables={**analysis.tables, "losses": doubled})
    figure = training.loss_curves(other, "finetune")
    assert figure is not None
    assert "answer" in labels(figure.wide)
    assert "total" not in labels(figure.wide)


def test_the_total_is_left_out_where_every_condition_has_one_term(analysis: Analysis) -> None:
    losses = analysis.tables["losses"].filter(pl.col("stage") == "finetune")
    named = losses.with_columns(
        term=pl.when(pl.col("condition") == "em_first").then(pl.lit("states")).otherwise(pl.lit("answer"))
    )
    other = dataclasses.replace(analysis, tables={**analysis.tables, "losses": pl.concat([losses, named])})
    figure = training.loss_curves(other, "finetune")
    assert figure is not None
    assert {"answer", "states"} <= set(labels(figure.wide)) and "total" not in labels(figure.wide)


def test_many_seeds_are_drawn_too(analysis: Analysis) -> None:
    rows = [
        {"stage": "finetune", "condition": "base_first", "seed": seed, "step": step, "term": "states", "value": 0.01}
        for seed in range(70)
        for step in range(80)
    ]  # fmt: skip
    losses = pl.DataFrame(rows).with_columns(pl.lit(None, pl.Float64).alias("lambda"))
    other = dataclasses.replace(analysis, tables={**analysis.tables, "losses": losses})
    figure = training.loss_curves(other, "finetune")
    assert figure is not None
    assert "squared distance from the target states" in figure.caption


def test_conditions_differ_in_colour_or_shape_even_when_colours_run_out() -> None:
    colour, shape, dash = (scale.to_dict()["range"] for scale in condition_scales([f"c{n}" for n in range(14)]))
    assert len(set(zip(colour, shape, strict=True))) == 14
    assert len({(c, tuple(d)) for c, d in zip(colour, dash, strict=True)}) == 14


def test_a_study_without_a_benign_condition_has_one_contrast_and_one_point(analysis: Analysis) -> None:
    decision = {**analysis.study["decision"], "benign": None}
    alone = dataclasses.replace(changed(analysis), study={**analysis.study, "decision": decision})
    assert [row[0] for row in cards.evidence(alone).rows] == ["em_first − base_first"]
    assert "benign_first" not in labels(plane.decision_plane(alone).wide)
    assert "benign_first" not in labels(geometry.effect_by_layer(alone).wide)
    assert alone.conditions == ("base_first", "em_first", "benign_first")


def test_a_registered_contraction_is_drawn_and_named_as_such(analysis: Analysis) -> None:
    rule = {**analysis.study["decision"]["geometry"], "measure": "contraction"}
    study = {**analysis.study, "decision": {**analysis.study["decision"], "geometry": rule}}
    other = dataclasses.replace(changed(analysis, measure="contraction", effect=0.31), study=study)
    assert cards.legs(other)[0].title == "Geometry: contraction (−log scatter ratio)"
    assert "contraction (−log scatter ratio)" in labels(plane.decision_plane(other).wide)


def test_the_estimator_table_marks_the_registered_one_and_keeps_each_scope(analysis: Analysis) -> None:
    table = tables_leakage.leakage_estimates(analysis, "em_first", "base_first")
    heads = [row[0] for row in table.rows]
    assert heads.count("cell_bootstrap (registered)") == 1
    assert len(table.rows) == len(set(heads)) == 9
    scopes = {row[0]: row[1] for row in table.rows}
    assert scopes["question_t"].startswith("new questions, these personas")
    assert scopes["crossed_anova"].startswith("new personas and questions")


def test_ratios_are_printed_without_a_sign(analysis: Analysis) -> None:
    table = tables_geometry.effects(analysis)
    column = [head for head, _ in table.heads].index("noise ratio")
    assert all(not row[column].startswith("+") for row in table.rows)
    assert table.rows[-1][0] == "mean over layers"


def test_leakage_rows_outside_the_verdict_are_listed_apart(analysis: Analysis) -> None:
    table = tables_leakage.other_leakage(analysis)
    pools = {row[1] for row in table.rows}
    assert pools == {"bystanders", "as_written (contaminated)"}
    selected = [row for row in table.rows if row[1] == "bystanders" and row[2] == "1"]
    assert not selected


def held_out_from_two(analysis: Analysis) -> Analysis:
    """The analysis with as many texts that are held out from the benign finetune, by whose log-odds it leads."""
    texts = analysis.tables["manipulation"]
    more = texts.filter(pl.col("set") == "in_domain").with_columns(
        held_out_from=pl.lit("benign_first"),
        log_odds=pl.when(pl.col("condition") == "benign_first").then(2.0).otherwise(-2.0),
    )
    tables = {**analysis.tables, "manipulation": pl.concat([more, texts])}
    return dataclasses.replace(analysis, tables=tables)


def test_a_panel_of_the_manipulation_check_names_the_finetune_its_texts_are_held_out_from(analysis: Analysis) -> None:
    one, two = (training.manipulation(each) for each in (analysis, held_out_from_two(analysis)))
    assert one is not None and two is not None
    panels = [[text for text in labels(each.wide) if "domain" in text] for each in (one, two)]
    assert panels[0] == ["In domain", "Out of domain"]
    assert panels[1] == [
        "In domain: held out from em_first", "In domain: held out from benign_first", "Out of domain",
    ]  # fmt: skip
    assert two.wide.count("taught") == two.narrow.count("taught") == 1  # below the last panel


def test_the_manipulation_table_keeps_texts_of_two_finetunes_apart(analysis: Analysis) -> None:
    one, two = (tables_run.manipulation(each) for each in (analysis, held_out_from_two(analysis)))
    assert one is not None and two is not None
    conditions = ("base_first", "em_first", "benign_first")
    inside, benign, outside = (
        [(*texts, name) for name in conditions]
        for texts in (("in domain", "em_first"), ("in domain", "benign_first"), ("out of domain", "–"))
    )
    assert [row[:3] for row in one.rows] == [*inside, *outside]
    assert [row[:3] for row in two.rows] == [*inside, *benign, *outside]
    assert [row[5] for row in two.rows[3:6]] == ["−2.000", "−2.000", "+2.000"]
    assert {(row[3], row[4]) for row in two.rows} == {("24", "24")}
