"""Robustness of a result: other choices, one persona, one question or one seed left out."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import polars as pl
import pytest
from planted_robustness import EFFECTS
from planted_rows import LAMBDAS

from flatprobe.report import numbers, select, words
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.figures import leave_one_out, specifications
from flatprobe.report.tables import leakage as tables_leakage
from flatprobe.report.tables import robustness as tables_robustness
from flatprobe.report.tables.table import Table
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.leakage.specifications import DETECTORS

LEAK, COSINE = EFFECTS["em_first", "base_first"]


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def with_table(analysis: Analysis, name: str, frame: pl.DataFrame) -> Analysis:
    return dataclasses.replace(analysis, tables={**analysis.tables, name: frame})


def column(table: Table, head: str) -> list[str]:
    return [row[[name for name, _ in table.heads].index(head)] for row in table.rows]


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_exactly_one_specification_is_the_registered_one(analysis: Analysis) -> None:
    (row,) = select.specifications(analysis, "em_first", "base_first").filter("registered").to_dicts()
    chosen = (row["estimator"], row["pool"], row["lambda"], row["detector"])
    assert chosen == ("cell_bootstrap", "bystanders", analysis.selected_lambda, "strict")


def test_a_contaminated_pool_is_never_registered_even_under_the_registered_name(analysis: Analysis) -> None:
    dirty = analysis.tables["specifications"].with_columns(contaminated=pl.lit(True))
    frame = select.specifications(with_table(analysis, "specifications", dirty), "em_first", "base_first")
    assert not frame["registered"].any()


def test_specifications_are_drawn_in_order_of_their_estimates_with_their_own_choices(analysis: Analysis) -> None:
    rows, undefined = specifications._sorted_rows(analysis)
    estimates = [row["estimate"] for row in rows]
    assert estimates == sorted(estimates)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) + undefined == 2 * 3 * 2 * len(SCOPES)
    assert undefined == 12
    least = rows[0]
    assert (least["kind"], least["weight"], least["detector"]) == ("contaminated pool", "λ = 2", "marker at the end")
    assert least["estimate"] == pytest.approx(100 * (LEAK - 0.08 - 0.05 - 0.02))
    (registered,) = [row for row in rows if row["kind"] == "registered"]
    assert registered["estimate"] == pytest.approx(100 * LEAK)
    assert registered["scope"] == "new independent cells"


def test_the_specification_curve_names_every_choice_and_marks_contaminated_pools(analysis: Analysis) -> None:
    figure = specifications.specification_curve(analysis)
    for svg in (figure.wide, figure.narrow):
        texts = set(labels(svg))
        assert {f"λ = {weight:g}" for weight in LAMBDAS} <= texts
        assert {"marker anywhere", "marker at the end", "bystanders", "as_written (contaminated)"} <= texts
        assert {"cell bootstrap", "crossed anova", "new personas and questions"} <= texts
        assert {"registered", "other choices", "contaminated pool"} <= texts
        assert "two way cluster t" not in texts
    assert "12 without an estimate are not drawn." in figure.caption


def test_the_summary_of_specifications_excludes_contaminated_pools(analysis: Analysis) -> None:
    frame = select.specifications(analysis, "em_first", "base_first").filter(~pl.col("contaminated"))
    summary = specifications.summary(analysis)
    assert summary.startswith("48 specifications of uncontaminated pools")
    assert f"from +{100 * (LEAK - 0.05 - 0.02):.1f} pp to +{100 * (LEAK + 0.025):.1f} pp" in summary
    assert f"The registered one gives +{100 * LEAK:.1f} pp." in summary
    low = frame.with_columns(estimate=pl.lit(0.1), ci_low=pl.lit(-0.1))
    assert "0 have their whole interval above 0, and 0 reach the margin of 15.0 pp" in specifications.summary(
        with_table(analysis, "specifications", low.drop("registered"))
    )


def test_without_an_uncontaminated_estimate_the_page_says_so(analysis: Analysis) -> None:
    none = analysis.tables["specifications"].with_columns(estimate=pl.lit(None, dtype=pl.Float64))
    other = with_table(analysis, "specifications", none)
    assert specifications.summary(other) == "No specification of an uncontaminated pool has an estimate."
    assert "108 without an estimate are not drawn" in specifications.specification_curve(other).caption


def test_every_specification_of_every_contrast_is_listed_with_its_numbers(analysis: Analysis) -> None:
    table = tables_robustness.specifications(analysis)
    assert len(table.rows) == analysis.tables["specifications"].height
    assert list(dict.fromkeys(column(table, "contrast"))) == [
        "em_first − base_first", "em_first − benign_first", "benign_first − base_first",
    ]  # fmt: skip
    (registered,) = [row for row in table.rows if row[0] == "em_first − base_first" and row[1].endswith("(registered)")]
    assert registered[1:6] == (
        "cell_bootstrap (registered)", "bystanders", "1", "marker anywhere", f"+{100 * LEAK:.1f} pp",
    )  # fmt: skip
    assert registered[6:10] == ("3.0 pp", "[+24.2, +36.2] pp", "0.00060", "7 × 20")
    unknown = next(row for row in table.rows if row[1] == "two_way_cluster_t")
    assert unknown[5] == numbers.NONE
    assert "one persona only" in unknown[-1]


def test_every_detector_has_a_name_in_words() -> None:
    assert set(words.DETECTORS) == set(DETECTORS)


def test_adjusted_p_values_stand_beside_every_candidate(analysis: Analysis, page: str) -> None:
    table = tables_robustness.chosen_among_several(analysis)
    assert table.rows[0] == (
        "leakage difference", "λ = 0.5", "cell_bootstrap", f"+{100 * (LEAK + 0.025):.1f} pp", "[+20.0, +40.0] pp",
        "0.00040", "0.0012", "Holm over 3 lambdas", numbers.NONE,
    )  # fmt: skip
    assert table.rows[3][:4] == (
        "cosine difference", "last response token, layer 6", "question_bootstrap", f"+{COSINE + 0.006:.4f}",
    )  # fmt: skip
    assert table.rows[3][5:8] == ("0.0030", "0.011", "max-T over 12 positions and layers")
    assert len(table.rows) == 3 + 12
    assert "Use the adjusted p-values if you choose λ" in page


def test_a_study_without_a_choice_has_no_adjusted_p(analysis: Analysis) -> None:
    nothing = with_table(analysis, "multiplicity", analysis.tables["multiplicity"].clear())
    assert tables_robustness.chosen_among_several(nothing).rows == ()
    alone = analysis.tables["multiplicity"].with_columns(
        family=pl.when(pl.col("lambda").is_not_null()).then(pl.col("family"))
    )
    rows = tables_robustness.chosen_among_several(with_table(analysis, "multiplicity", alone)).rows
    assert {row[0] for row in rows} == {"leakage difference"}


def test_an_estimate_at_its_threshold_up_to_rounding_is_not_below_it(analysis: Analysis) -> None:
    at = analysis.tables["leave_one_out"].with_columns(
        estimate=pl.lit(0.15 - 1e-14), difference=pl.lit(0.01, dtype=pl.Float64)
    )
    table = tables_robustness.most_influential(with_table(analysis, "leave_one_out", at))
    assert column(table, "below threshold")[:2] == ["0 of 7", "0 of 20"]


def test_the_most_influential_persona_and_question_of_each_effect_are_named(analysis: Analysis) -> None:
    table = tables_robustness.most_influential(analysis)
    assert column(table, "most influential") == ["persona lumberjack", "question eval_02"] * 2
    first = dict(zip([name for name, _ in table.heads], table.rows[0], strict=True))
    assert first["full estimate"] == f"+{100 * LEAK:.1f} pp"
    assert first["estimate without it"] == f"+{100 * LEAK * 0.4:.1f} pp"
    assert first["change"] == f"−{100 * LEAK * 0.6:.1f} pp"
    assert first["p without it"] == "0.020"  # of the crossed analysis, not of the cell bootstrap
    assert first["below threshold"] == "1 of 7"
    geometric = dict(zip([name for name, _ in table.heads], table.rows[3], strict=True))
    assert geometric["estimate without it"] == f"+{COSINE * 0.975:.4f}"
    assert geometric["threshold"] == "+0.0500"
    assert geometric["below threshold"] == "0 of 20"
    assert geometric["p without it"] == geometric["interval without it"] == numbers.NONE


def test_the_leave_one_out_figure_sorts_by_estimate_and_describes_the_largest_change(analysis: Analysis) -> None:
    figure = leave_one_out.leave_one_out(analysis)
    assert figure is not None
    drawn = labels(figure.wide)
    assert drawn.index("lumberjack") < drawn.index("archivist") < drawn.index("quelandri_scholar")
    assert f"+{100 * LEAK * 0.4:.1f} pp without persona lumberjack, +{100 * LEAK:.1f} pp with all" in figure.description
    assert drawn.count("Without one persona") == drawn.count("Without one question") == 2


def test_estimates_undefined_without_one_are_not_drawn_and_all_undefined_give_no_figure(analysis: Analysis) -> None:
    frame = analysis.tables["leave_one_out"]
    unknown = pl.when(pl.col("probe") == "leakage").then(pl.col("estimate")).alias("estimate")
    figure = leave_one_out.leave_one_out(with_table(analysis, "leave_one_out", frame.with_columns(unknown)))
    assert figure is not None
    assert "cosine difference" not in labels(figure.wide)
    nothing = frame.with_columns(difference=pl.lit(None, dtype=pl.Float64))  # the full estimate is undefined
    assert leave_one_out.leave_one_out(with_table(analysis, "leave_one_out", nothing)) is None


def test_every_one_left_out_is_listed_by_both_leakage_estimators_and_by_layer(analysis: Analysis) -> None:
    table = tables_robustness.leave_one_out(analysis)
    assert len(table.rows) == 27 * (2 + 7)
    lumberjack = [row for row in table.rows if row[0] == "lumberjack"]
    assert [row[2:4] for row in lumberjack[:2]] == [("cell bootstrap", "–"), ("crossed anova", "–")]
    assert [row[7] for row in lumberjack[:2]] == ["0.00020", "0.020"]
    assert [row[3] for row in lumberjack[2:]] == ["mean over layers", "6", "10", "14", "18", "22", "26"]


def several_seeds(analysis: Analysis) -> Analysis:
    """The deciding contrast of two seeds beside both pooled, and the estimators that take seeds as random."""
    main = analysis.estimates.filter(
        (pl.col("contrast") == "em_first - base_first")
        & (pl.col("lambda").is_null() | (pl.col("lambda") == analysis.selected_lambda))
    )
    alone = [
        main.with_columns(seed=pl.lit(seed, dtype=pl.Int64), estimate=pl.col("estimate") + shift)
        for seed, shift in ((7, 0.05), (11, -0.05))
    ]
    random = main.filter((pl.col("estimator") == "crossed_anova") & (pl.col("pool") == "bystanders")).with_columns(
        estimator=pl.lit("seed_t"), scope=pl.lit("new training runs, these personas and questions")
    )
    return dataclasses.replace(analysis, estimates=pl.concat([analysis.estimates, *alone, random]))


def test_the_table_of_seeds_shows_each_seed_all_together_and_seeds_as_random(analysis: Analysis) -> None:
    table = tables_robustness.seeds(several_seeds(analysis))
    assert table is not None
    assert [row[:4] for row in table.rows] == [
        ("leakage difference", "7", "cell_bootstrap", f"+{100 * (LEAK + 0.05):.1f} pp"),
        ("leakage difference", "11", "cell_bootstrap", f"+{100 * (LEAK - 0.05):.1f} pp"),
        ("leakage difference", "all", "cell_bootstrap", f"+{100 * LEAK:.1f} pp"),
        ("leakage difference", "all", "seed_t", f"+{100 * LEAK:.1f} pp"),
        ("cosine difference", "7", "question_bootstrap", f"+{COSINE + 0.05:.4f}"),
        ("cosine difference", "11", "question_bootstrap", f"+{COSINE - 0.05:.4f}"),
        ("cosine difference", "all", "question_bootstrap", f"+{COSINE:.4f}"),
    ]
    assert table.rows[3][-1] == "new training runs, these personas and questions"


def test_a_study_of_one_seed_has_no_table_of_seeds(analysis: Analysis, page: str) -> None:
    assert tables_robustness.seeds(analysis) is None
    assert "One training seed: no interval generalises to new training runs." in page


def test_leakage_is_shown_relative_to_the_source_too(folder: Path) -> None:
    table = tables_leakage.relative(read(folder))
    assert [row[:5] for row in table.rows] == [
        ("em_first", "45.0 %", "90.0 %", "0.50", "[0.40, 0.62]"),
        ("base_first", "20.0 %", "80.0 %", "0.25", "[0.12, 0.38]"),
        ("benign_first", "0.0 %", "0.0 %", "–", "–"),
        ("em_first − base_first", "–", "–", "+0.25", "[+0.12, +0.38]"),
    ]
    assert table.rows[2][5] == "the source never shows the marker"
