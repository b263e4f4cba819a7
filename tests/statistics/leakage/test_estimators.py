from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from cell_tables import by_name, table
from refusals import refused
from scipy import stats

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.estimators import SCOPES, leakage_contrast


def contrast(cells: pl.DataFrame, personas: tuple[str, ...], resamples: int = 2000) -> dict[str, Estimate]:
    return by_name(
        leakage_contrast(
            cells, "em_first", "base_first", personas, pool="bystanders", resamples=resamples, seed=42, level=0.95
        )
    )


@pytest.fixture(scope="module")
def worked(published: pl.DataFrame, bystanders: tuple[str, ...]) -> dict[str, Estimate]:
    return contrast(published, bystanders, resamples=10_000)


@pytest.mark.parametrize(
    ("estimator", "error", "low", "high", "p_value"),
    [
        ("question_t", 0.0281, 0.243, 0.361, None),
        ("persona_t", 0.0999, None, None, None),
        ("crossed_anova", 0.101, 0.057, 0.547, 0.0231),
        ("two_way_cluster_t", 0.0989, None, None, 0.0223),
    ],
)
def test_exact_estimators_reproduce_the_worked_example(
    worked: dict[str, Estimate],
    estimator: str,
    error: float,
    low: float | None,
    high: float | None,
    p_value: float | None,
) -> None:
    estimate = worked[estimator]
    assert estimate.estimate == pytest.approx(0.30214, abs=5e-6)
    digits = 4 if error < 0.1 else 3
    assert estimate.standard_error is not None and round(estimate.standard_error, digits) == error
    for value, printed, places in (
        (estimate.ci_low, low, 3),
        (estimate.ci_high, high, 3),
        (estimate.p_value, p_value, 4),
    ):
        if printed is not None:
            assert value is not None and round(value, places) == printed


def test_degrees_of_freedom_are_those_of_the_design(worked: dict[str, Estimate]) -> None:
    assert worked["question_t"].df == 19
    assert worked["persona_t"].df == 6
    assert worked["two_way_cluster_t"].df == 6
    assert worked["crossed_anova"].df == pytest.approx(6.264, abs=5e-4)


def test_sign_flip_enumerates_all_patterns_of_seven_personas(worked: dict[str, Estimate]) -> None:
    estimate = worked["persona_sign_flip"]
    assert estimate.p_value == 6 / 128
    assert estimate.smallest_attainable_p == 2 / 128
    assert estimate.ci_low is None and estimate.standard_error is None


def test_resampling_estimators_reproduce_the_worked_example_to_the_draws_noise(worked: dict[str, Estimate]) -> None:
    cell, pigeonhole = worked["cell_bootstrap"], worked["pigeonhole_t"]
    assert cell.standard_error == pytest.approx(0.0315, abs=8e-4)
    assert (cell.ci_low, cell.ci_high) == (pytest.approx(0.240, abs=4e-3), pytest.approx(0.364, abs=4e-3))
    assert pigeonhole.standard_error == pytest.approx(0.0986, abs=2.5e-3)
    assert pigeonhole.df == 6


def test_the_registered_p_of_an_extreme_difference_is_its_floor_and_not_zero(worked: dict[str, Estimate]) -> None:
    cell = worked["cell_bootstrap"]
    assert cell.p_value == 2 / 10_001 == cell.smallest_attainable_p


def test_t_estimators_agree_with_scipy(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    rates = published.with_columns(rate=pl.col("hits") / pl.col("total")).filter(pl.col("persona").is_in(bystanders))
    wide = rates.pivot("condition", index=["persona", "question_id"], values="rate")
    wide = wide.with_columns(difference=pl.col("em_first") - pl.col("base_first"))
    estimates = contrast(published, bystanders, resamples=10)
    for estimator, unit in (("question_t", "question_id"), ("persona_t", "persona")):
        oracle = stats.ttest_1samp(wide.group_by(unit).agg(pl.col("difference").mean())["difference"], 0)
        assert estimates[estimator].p_value == pytest.approx(oracle.pvalue, rel=1e-9)
        interval = oracle.confidence_interval()
        assert estimates[estimator].ci_low == pytest.approx(interval.low)
        assert estimates[estimator].ci_high == pytest.approx(interval.high)


def test_completion_resampling_has_the_binomial_standard_error(
    published: pl.DataFrame, bystanders: tuple[str, ...], worked: dict[str, Estimate]
) -> None:
    used = published.filter(pl.col("persona").is_in(bystanders))
    rate = (used["hits"] / used["total"]).to_numpy()
    error = np.sqrt((rate * (1 - rate) / used["total"].to_numpy()).sum()) / 140
    assert worked["completion_resampling"].standard_error == pytest.approx(error, rel=0.03)


def test_bootstrap_t_stays_near_the_t_interval_for_regular_data(worked: dict[str, Estimate]) -> None:
    bootstrap, plain = worked["question_bootstrap_t"], worked["question_t"]
    assert bootstrap.ci_low == pytest.approx(plain.ci_low, abs=0.01)
    assert bootstrap.ci_high == pytest.approx(plain.ci_high, abs=0.01)


def test_swapping_the_conditions_flips_the_sign_and_nothing_else(
    published: pl.DataFrame, bystanders: tuple[str, ...], worked: dict[str, Estimate]
) -> None:
    swapped = leakage_contrast(
        published, "base_first", "em_first", bystanders, pool="bystanders", resamples=10_000, seed=42, level=0.95
    )
    for estimate in swapped:
        other = worked[estimate.estimator]
        assert estimate.estimate == pytest.approx(-0.3021428571)
        if estimate.estimator not in ("completion_resampling", "question_bootstrap_t"):
            assert estimate.p_value == pytest.approx(other.p_value)


def test_the_same_seed_gives_the_same_numbers(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    assert contrast(published, bystanders) == contrast(published, bystanders)


def test_every_estimator_names_its_scope_and_every_scope_says_these_checkpoints(worked: dict[str, Estimate]) -> None:
    assert list(worked) == list(SCOPES)
    assert all("these checkpoints" in estimate.scope for estimate in worked.values())


def test_equal_counts_give_zero_with_p_one_and_no_t_inference() -> None:
    counts = [[0] * 5] * 3
    estimates = contrast(table(counts, counts), ("a", "b", "c"))
    assert all(estimate.estimate == 0 for estimate in estimates.values())
    assert estimates["cell_bootstrap"].p_value == 1
    crossed = estimates["crossed_anova"]
    assert crossed.p_value is None and crossed.ci_low is None and "no variation" in (crossed.note or "")


def test_a_non_positive_two_way_variance_falls_back_to_the_larger_one_way_variance() -> None:
    treated = [[10, 0, 6], [0, 10, 5], [5, 5, 4]]  # interaction only: persona and question means hardly differ
    estimates = contrast(table(treated, [[0] * 3] * 3), ("a", "b", "c"))
    larger = max(estimates["question_t"].standard_error or 0, estimates["persona_t"].standard_error or 0)
    for name in ("crossed_anova", "two_way_cluster_t"):
        assert estimates[name].standard_error == pytest.approx(larger) and larger > 0
        assert estimates[name].df == 2
        assert "larger one-way variance" in (estimates[name].note or "")


def test_a_missing_cell_is_left_out_and_said_and_refused_only_where_balance_is_needed(
    published: pl.DataFrame, bystanders: tuple[str, ...]
) -> None:
    gone = (pl.col("condition") == "em_first") & (pl.col("persona") == "villain") & (pl.col("question_id") == "q07")
    estimates = contrast(published.filter(~gone), bystanders)
    for name, estimate in estimates.items():
        assert "1 of 140 cells" in (estimate.note or "")
        assert (estimate.estimate is None) == (name == "crossed_anova")
    assert len({estimate.estimate for estimate in estimates.values()} - {None}) <= 2  # one mean, two roundings
    refused = estimates["crossed_anova"]
    assert refused.standard_error is None and refused.p_value is None and "Satterthwaite" in (refused.note or "")


def test_one_persona_still_has_question_inference_and_says_why_it_has_no_other(published: pl.DataFrame) -> None:
    estimates = contrast(published, ("villain",))
    assert estimates["question_t"].p_value is not None
    for name in ("persona_t", "persona_sign_flip", "crossed_anova", "two_way_cluster_t", "pigeonhole_t"):
        assert estimates[name].estimate is None and "one persona" in (estimates[name].note or "")


def test_one_question_still_has_persona_inference(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    estimates = contrast(published.filter(pl.col("question_id") == "q03"), bystanders)
    assert estimates["persona_t"].p_value is not None
    assert estimates["question_t"].estimate is None and "one question" in (estimates["question_t"].note or "")


def test_more_than_sixteen_personas_draw_their_sign_patterns() -> None:
    names = tuple(chr(97 + index) for index in range(17))
    cells = table([[5, 6, 7]] * 17, [[1, 2, 2]] * 17)
    estimate = contrast(cells, names, resamples=999)["persona_sign_flip"]
    assert estimate.smallest_attainable_p == 1 / 1000 == estimate.p_value


def test_a_contaminated_pool_is_labelled(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    estimates = leakage_contrast(
        published,
        "em_first",
        "base_first",
        bystanders,
        pool="as_written",
        resamples=50,
        seed=1,
        contaminated=True,
        level=0.95,
    )
    assert all(estimate.pool == "as_written" and estimate.contaminated for estimate in estimates)
    assert all("contaminated" in (estimate.note or "") for estimate in estimates)


def test_duplicates_and_impossible_counts_are_all_reported_at_once(published: pl.DataFrame) -> None:
    broken = published.with_columns(
        hits=pl.when((pl.col("persona") == "comedian") & (pl.col("question_id") == "q02")).then(11).otherwise("hits")
    )
    villain = published.filter((pl.col("persona") == "villain") & (pl.col("question_id") == "q01"))
    with refused("cells.duplicate", "cells.impossible_count", "cells.impossible_count"):
        contrast(pl.concat([broken.cast(published.schema), villain.head(1)]), ("comedian", "villain"))


@pytest.mark.parametrize(
    ("personas", "codes"),
    [
        ((), ["cells.pool"]),
        (("villain", "villain"), ["cells.pool"]),
        (("villain", "nobody"), ["cells.missing_persona"] * 2),
    ],
)
def test_a_pool_that_cannot_be_averaged_is_refused(
    published: pl.DataFrame, personas: tuple[str, ...], codes: list[str]
) -> None:
    with refused(*codes):
        contrast(published, personas)


def test_an_estimate_never_holds_a_number_that_is_not_one(worked: dict[str, Estimate]) -> None:
    with pytest.raises(ValueError, match="None"):
        replace(worked["question_t"], p_value=float("nan"))
