from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from cell_tables import pair, random_cells, table

from flatprobe.statistics.leakage.cells import pair_cells
from flatprobe.statistics.leakage.estimators import leakage_contrast
from flatprobe.statistics.leakage.leave_one_out import leave_one_out


def test_each_row_is_the_contrast_of_the_cells_without_it(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    rows = leave_one_out(pair_cells(published, "em_first", "base_first", bystanders), resamples=200, seed=4, level=0.9)
    assert rows.height == 2 * (7 + 20)
    rest = tuple(name for name in bystanders if name != "villain")
    without = {
        ("persona", "villain"): (published, rest),
        ("question", "q05"): (published.filter(pl.col("question_id") != "q05"), bystanders),
    }
    for (kind, left_out), (cells, personas) in without.items():
        direct = leakage_contrast(cells, "em_first", "base_first", personas, pool="p", resamples=200, seed=4, level=0.9)
        for estimate in direct:
            if estimate.estimator not in ("crossed_anova", "cell_bootstrap"):
                continue
            row = rows.row(
                by_predicate=(pl.col("kind") == kind)
                & (pl.col("left_out") == left_out)
                & (pl.col("estimator") == estimate.estimator),
                named=True,
            )
            for column in ("estimate", "ci_low", "ci_high", "p_value"):
                assert row[column] == pytest.approx(getattr(estimate, column))
            assert row["difference"] == pytest.approx(row["estimate"] - 0.3021428571)


def test_on_a_complete_table_the_changes_of_each_kind_add_up_to_nothing(published: pl.DataFrame) -> None:
    rows = leave_one_out(pair(published), resamples=1, seed=1, estimators=["question_t"], level=0.95)
    sums = rows.group_by("kind").agg(pl.col("difference").sum())["difference"].to_list()
    assert sums == pytest.approx([0.0, 0.0])


def test_a_factor_with_one_level_has_nothing_to_leave_out() -> None:
    rows = leave_one_out(pair(table([[1, 2, 3]], [[0, 0, 1]])), resamples=20, seed=1, level=0.95)
    assert set(rows["kind"]) == {"question"} and rows.height == 6
    refused = rows.filter(pl.col("estimator") == "crossed_anova")
    assert refused["estimate"].null_count() == 3 and refused["note"].str.contains("one persona").all()
    assert leave_one_out(pair(table([[1]], [[0]])), resamples=20, seed=1, level=0.95).is_empty()


def test_leaving_out_what_has_the_missing_cell_makes_the_table_complete_again() -> None:
    cells = random_cells(np.random.default_rng(1), 3, 4)
    gone = (pl.col("persona") == "b") & (pl.col("question_id") == "q02")
    rows = leave_one_out(pair(cells.filter(~gone)), resamples=20, seed=1, estimators=["crossed_anova"], level=0.95)
    defined = rows.filter(pl.col("estimate").is_not_null())
    assert defined["left_out"].to_list() == ["b", "q02"]
    assert not defined["note"].str.contains("missing").any()
