"""The rows that decide, and further rows of the full lists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from flatprobe.report import select
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.tables import geometry as tables_geometry
from flatprobe.report.tables import leakage as tables_leakage
from flatprobe.report.tables import legs as cards
from flatprobe.statistics.leakage.rates import upper_bound


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


@pytest.fixture(scope="module")
def several_seeds(analysis: Analysis) -> Analysis:
    """The analysis with the deciding contrast of two seeds alone beside that of both pooled."""
    main = analysis.estimates.filter(pl.col("contrast") == "em_first - base_first")
    alone = [
        main.with_columns(seed=pl.lit(seed, dtype=pl.Int64), estimate=pl.col("estimate") + shift)
        for seed, shift in ((1, 0.5), (2, -0.5))
    ]
    return dataclasses.replace(analysis, estimates=pl.concat([analysis.estimates, *alone]))


def test_only_estimates_of_all_seeds_together_decide(analysis: Analysis, several_seeds: Analysis) -> None:
    pair = ("em_first", "base_first")
    assert select.leakage(several_seeds, *pair) == select.leakage(analysis, *pair)
    pooled = select.geometric(several_seeds, *pair, ["cosine_difference"])
    assert len(pooled) == 7
    assert pooled == select.geometric(analysis, *pair, ["cosine_difference"])
    assert tables_geometry.effects(several_seeds) == tables_geometry.effects(analysis)
    assert cards.legs(several_seeds) == cards.legs(analysis)


def test_estimates_of_one_seed_are_listed_with_it(analysis: Analysis, several_seeds: Analysis) -> None:
    table = tables_geometry.aggregates(several_seeds, registered=True)
    column = [head for head, _ in table.heads].index("seed")
    assert {row[column] for row in table.rows} == {"all", "1", "2"}
    other = tables_leakage.other_leakage(several_seeds)
    column = [head for head, _ in other.heads].index("seed")
    selected = [row for row in other.rows if row[1] == "bystanders" and row[2] == "1"]
    assert {row[column] for row in selected} == {"1", "2"}
    assert {row[column] for row in tables_leakage.other_leakage(analysis).rows} == {"all"}


def test_the_deciding_measure_comes_first(analysis: Analysis) -> None:
    leg = {**analysis.study["decision"]["geometry"], "measure": "contraction"}
    study = {**analysis.study, "decision": {**analysis.study["decision"], "geometry": leg}}
    heads = [head for head, _ in tables_geometry.effects(dataclasses.replace(analysis, study=study)).heads]
    assert heads[1] == "contraction (−log scatter ratio), decides"
    assert [head for head in heads if head.endswith("decides")] == heads[1:2]


def test_the_false_positive_baseline_prints_the_upper_bound_of_pooled_counts(analysis: Analysis) -> None:
    table = tables_leakage.false_positives(analysis)
    rates = analysis.tables["rates"].filter(~pl.col("coupled") & (pl.col("condition") == "em_first"))
    total = int(rates.filter(pl.col("role") == "bystander")["total"].sum())
    row = next(row for row in table.rows if row[:2] == ("em_first", "bystanders"))
    assert row[2:] == (f"0 / {total}", "0.0 %", f"{100 * upper_bound(0, total, level=0.95):.1f} %")
    assert [row[0] for row in table.rows[::2]] == ["base_first", "em_first", "benign_first"]


def distance_sides(analysis: Analysis, **distances: float | None) -> dict[str, str]:
    distances = {**analysis.verdict.distances, **distances}
    verdict = dataclasses.replace(analysis.verdict, distances=distances)
    rows = cards.distances(dataclasses.replace(analysis, outcome=verdict)).rows
    return {name: row[2] for name, row in zip(distances, rows, strict=True)}


def test_a_kill_row_names_the_side_of_its_bound(analysis: Analysis) -> None:
    above = distance_sides(analysis, kill_geometry=0.02, kill_leakage=0.1)
    assert (above["kill_geometry"], above["kill_leakage"]) == ("above the bound", "above the bound")
    at = distance_sides(analysis, kill_geometry=0.0, kill_leakage=-0.1)
    assert (at["kill_geometry"], at["kill_leakage"]) == ("within the bound", "within the bound")


def test_sides_follow_the_rule_at_its_very_thresholds(analysis: Analysis) -> None:
    names = ("geometry_threshold", "geometry_interval", "leakage_margin", "leakage_p", "dose")
    sides = distance_sides(analysis, **dict.fromkeys(names, 0.0), em_specific_leakage=None)
    assert [sides[name] for name in names] == ["passes", "does not pass", "passes", "does not pass", "matched"]
    assert sides["em_specific_leakage"] == "unknown"
