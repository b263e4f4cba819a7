"""Every p-value with its null: margins, families, both legs; and the dimensions that can dominate a cosine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.figures import specifications
from flatprobe.report.tables import geometry as tables_geometry
from flatprobe.report.tables import leakage as tables_leakage
from flatprobe.report.tables import legs as cards
from flatprobe.report.tables import robustness as tables_robustness
from flatprobe.report.tables.table import Table


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def with_table(analysis: Analysis, name: str, frame: pl.DataFrame) -> Analysis:
    return dataclasses.replace(analysis, tables={**analysis.tables, name: frame})


def column(table: Table, head: str) -> list[str]:
    return [row[[name for name, _ in table.heads].index(head)] for row in table.rows]


def test_the_estimator_table_prints_p_against_the_margins_and_adjusted_p(analysis: Analysis) -> None:
    table = tables_leakage.leakage_estimates(analysis, "em_first", "base_first")
    at = [row[0] for row in table.rows].index("cell_bootstrap (registered)")
    assert column(table, "p")[at] == "0.00060"
    assert column(table, "p above 15.0 pp")[at] == "0.00090"
    assert column(table, "p within ±5.0 pp")[at] == "0.96"
    assert column(table, "adjusted p")[at] == "0.00060\nmax-T over 3 lambdas"
    assert set(column(table, "adjusted p")[:at]) == {numbers.NONE}


def test_tests_without_any_p_have_no_column(analysis: Analysis) -> None:
    nothing = {name: pl.lit(None, dtype=pl.Float64) for name in ("superiority_p", "equivalence_p", "adjusted_p")}
    other = dataclasses.replace(analysis, estimates=analysis.estimates.with_columns(**nothing))
    table = tables_leakage.leakage_estimates(other, "em_first", "base_first")
    heads = [name for name, _ in table.heads]
    assert not [head for head in heads if "above" in head or "within" in head or "adjusted" in head]
    assert "margin" not in table.caption
    assert "adjusted p" not in [name for name, _ in tables_leakage.other_leakage(other).heads]


def test_other_lambdas_show_the_p_adjusted_for_choosing_among_them(analysis: Analysis) -> None:
    table = tables_leakage.other_leakage(analysis)
    cells = {row[4]: cell for row, cell in zip(table.rows, column(table, "adjusted p"), strict=True)}
    assert cells["cell_bootstrap"] == "0.00060\nmax-T over 3 lambdas"
    assert cells["question_t"] == numbers.NONE


def test_leakage_intervals_are_called_by_the_level_of_the_behavioural_leg(analysis: Analysis) -> None:
    leg = {**analysis.study["decision"]["behaviour"], "level": 0.99}
    study = {**analysis.study, "decision": {**analysis.study["decision"], "behaviour": leg}}
    other = dataclasses.replace(analysis, study=study)
    for table in (
        tables_leakage.leakage_estimates(other, "em_first", "base_first"),
        tables_leakage.other_leakage(other),
        tables_robustness.specifications(other),
    ):
        assert "99 % interval" in [name for name, _ in table.heads]
    assert cards.legs(other)[1].facts[0][0] == "99 % interval"
    assert "99 % intervals" in specifications.specification_curve(other).caption


def test_each_layer_shows_p_beside_p_adjusted_for_all_layers(analysis: Analysis) -> None:
    table = tables_geometry.effects(analysis)
    assert [name for name, _ in table.heads][:4] == ["layer", "cosine difference, decides", "p", "adjusted p"]
    assert column(table, "p") == ["0.0016", "0.0020", "0.0024", "0.0028", "0.0032", "0.0036", "0.0010"]
    assert column(table, "adjusted p") == ["0.0026", "0.0030", "0.0034", "0.0038", "0.0042", "0.0046", "–"]
    assert "max-T over 6 layers" in table.caption
    tests = tables_geometry.effect_tests(analysis)
    assert column(tests, "contraction (−log scatter ratio): p")[0] == "0.0016"
    assert [name for name, _ in tests.heads].count("adjusted p") == len(tests.rows[0]) // 2


def test_layers_without_adjusted_p_have_no_column_for_it(analysis: Analysis) -> None:
    plain = analysis.estimates.with_columns(
        adjusted_p=pl.lit(None, dtype=pl.Float64), family=pl.lit(None, dtype=pl.String)
    )
    table = tables_geometry.effects(dataclasses.replace(analysis, estimates=plain))
    assert "adjusted p" not in [name for name, _ in table.heads]
    assert "adjusted" not in table.caption


def test_the_verdict_prints_the_p_of_both_legs_or_why_there_is_none(analysis: Analysis, page: str) -> None:
    def sentence(conjunction_p: float | None) -> str:
        changed = dataclasses.replace(analysis.verdict.numbers, conjunction_p=conjunction_p)
        verdict = dataclasses.replace(analysis.verdict, numbers=changed)
        return cards.conjunction(dataclasses.replace(analysis, outcome=verdict))

    assert sentence(0.0321).startswith("p of both legs: 0.032, the larger of the two")
    assert sentence(None) == "p of both legs: none, because a leg has no p."
    head = page.partition('id="verdict-title"')[2].partition("</section>")[0]
    printed = numbers.p_value(analysis.verdict.numbers.conjunction_p)
    assert f"p of both legs: {printed}," in head


def test_massive_dimensions_come_by_rank_with_the_sum_of_their_shares(analysis: Analysis) -> None:
    table = tables_geometry.massive(analysis)
    assert table is not None
    assert len(table.rows) == 6 * 3
    assert table.rows[1] == ("6", "em_first", "458 (241.0), 2570 (121.0), 11 (81.0)", "55.0 %")


def test_a_share_that_is_unknown_for_one_dimension_is_unknown_for_their_sum(analysis: Analysis) -> None:
    share = pl.col("share_of_squared_norm")
    hidden = (pl.col("rank") == 2) & (pl.col("layer") == 10)
    heavy = pl.when(hidden).then(None).when(pl.col("condition") == "benign_first").then(0.31).otherwise(share)
    frame = analysis.tables["massive"].with_columns(share_of_squared_norm=heavy)
    other = with_table(analysis, "massive", frame)
    table = tables_geometry.massive(other)
    assert table is not None
    assert {row[3] for row in table.rows if row[0] == "10"} == {numbers.NONE}
    sentence = tables_geometry.most_massive(other)
    assert sentence is not None
    assert "at layer 6 of benign_first: the 3 largest dimensions hold 93.0 %" in sentence


def test_a_run_without_the_audit_of_massive_dimensions_has_no_such_section(analysis: Analysis) -> None:
    tables = {name: frame for name, frame in analysis.tables.items() if name != "massive"}
    other = dataclasses.replace(analysis, tables=tables)
    assert tables_geometry.massive(other) is None
    assert tables_geometry.most_massive(other) is None
