from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from cell_tables import pair, random_cells, table
from refusals import refused
from scipy import stats
from statsmodels.stats.multitest import multipletests

from flatprobe.errors import UserError
from flatprobe.statistics.leakage.cells import PairedCells
from flatprobe.statistics.leakage.estimators import contrast_cells
from flatprobe.statistics.leakage.lambdas import leakage_over_lambdas
from flatprobe.statistics.multiplicity import conjunction_p, holm, max_t


def test_holm_agrees_with_statsmodels() -> None:
    p_values = [0.04, 0.01, 0.03, 0.005, 0.9]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())
    with pytest.raises(UserError):
        holm([0.1, 1.2])


def test_a_conjunction_is_as_weak_as_its_weakest_leg_and_unknown_with_an_unknown_leg() -> None:
    assert conjunction_p([0.01, 0.2, 0.03]) == 0.2
    assert conjunction_p([0.01, None]) is None
    assert conjunction_p([]) is None


def test_max_t_counts_the_largest_statistic_of_each_resample() -> None:
    # Columns have SD 1 and 2; centred, studentised draws are +-sqrt(3/4) and the like.
    draws = np.array([[1.0, -2.0], [-1.0, 2.0], [1.0, 2.0], [-1.0, -2.0]]) + np.array([0.9, 5.0])
    adjusted = max_t(np.array([0.9, 5.0]), draws)
    # |t*| is sqrt(3)/2 = .866 in every resample and column; t = .9 / 1.155 = .78 and 5 / 2.309 = 2.17.
    assert adjusted == pytest.approx([(1 + 4) / 5, (1 + 0) / 5])


@pytest.mark.parametrize("copies", [1, 3])
def test_max_t_pays_for_independent_statistics_and_not_for_copies(copies: int) -> None:
    generator = np.random.default_rng(3)
    shared = generator.normal(size=(20_000, 1))
    one_sided = 2 * stats.norm.sf(2.0)
    same = max_t(np.full(copies, 2.0), 2.0 + np.repeat(shared, copies, axis=1))
    apart = max_t(np.full(copies, 2.0), 2.0 + generator.normal(size=(20_000, copies)))
    assert same == pytest.approx([one_sided] * copies, abs=0.006)
    assert apart == pytest.approx([1 - (1 - one_sided) ** copies] * copies, abs=0.008)


def test_max_t_lies_between_the_single_test_and_bonferroni() -> None:
    generator = np.random.default_rng(4)
    estimates = np.array([0.5, 1.5, 2.5, -2.0])
    draws = estimates + generator.multivariate_normal(np.zeros(4), 0.6 * np.eye(4) + 0.4, size=10_000)
    adjusted = max_t(estimates, draws)
    single = np.array([max_t(estimates[[k]], draws[:, [k]])[0] for k in range(4)])
    assert (adjusted >= single).all() and (adjusted <= np.minimum(1, 4 * single)).all()


def test_an_undefined_resample_counts_against_every_statistic() -> None:
    draws = 3 + np.random.default_rng(5).normal(size=(99, 2))
    whole = max_t(np.array([3.0, 3.0]), draws)
    draws[:10, 0] = np.nan
    assert (max_t(np.array([3.0, 3.0]), draws) >= 11 / 100).all() and (whole < 11 / 100).all()


def test_statistics_that_do_not_vary_are_refused_by_name() -> None:
    draws = np.random.default_rng(6).normal(size=(50, 3))
    draws[:, 1] = 0.4
    with refused(("multiplicity.no_variation", "max-T: layer 10")):
        max_t(np.zeros(3), draws, names=["layer 6", "layer 10", "layer 14"])
    with pytest.raises(ValueError, match="do not fit"):
        max_t(np.zeros(2), draws)


@pytest.fixture(scope="module")
def by_lambda() -> dict[float, PairedCells]:
    generator = np.random.default_rng(8)
    return {value: pair(random_cells(generator, 5, 8)) for value in (0.5, 1.0, 2.0)}


def test_each_lambda_keeps_its_registered_estimate_beside_the_adjusted_p(by_lambda: dict[float, PairedCells]) -> None:
    rows = leakage_over_lambdas(by_lambda, resamples=2000, seed=7, level=0.95)
    for row, (value, paired) in zip(rows, by_lambda.items(), strict=True):
        (alone,) = contrast_cells(paired, resamples=2000, seed=7, estimators=["cell_bootstrap"], level=0.95)
        assert row == replace(alone, lambda_=value, adjusted_p=row.adjusted_p, family="max-T over 3 lambdas")
        assert row.adjusted_p is not None and alone.p_value is not None


def test_the_same_cells_at_every_lambda_cost_nothing(by_lambda: dict[float, PairedCells]) -> None:
    paired = by_lambda[1.0]
    one = leakage_over_lambdas({1.0: paired}, resamples=2000, seed=7, level=0.95)
    three = leakage_over_lambdas({0.5: paired, 1.0: paired, 2.0: paired}, resamples=2000, seed=7, level=0.95)
    assert {row.adjusted_p for row in three} == {one[0].adjusted_p}
    assert one[0].family == "max-T over 1 lambda"


def test_holm_over_lambdas_adjusts_the_registered_p(by_lambda: dict[float, PairedCells]) -> None:
    rows = leakage_over_lambdas(by_lambda, resamples=2000, seed=7, method="Holm", level=0.95)
    assert [row.adjusted_p for row in rows] == holm([row.p_value for row in rows if row.p_value is not None])
    assert {row.family for row in rows} == {"Holm over 3 lambdas"}


def test_a_lambda_that_does_not_vary_is_left_out_of_the_family_and_says_so(by_lambda: dict[float, PairedCells]) -> None:
    counts = [[0] * 8] * 5
    rows = leakage_over_lambdas({0.0: pair(table(counts, counts)), **by_lambda}, resamples=500, seed=7, level=0.95)
    assert rows[0].adjusted_p is None and "not in the family" in (rows[0].note or "")
    assert {row.family for row in rows[1:]} == {"max-T over 3 lambdas"}


def test_max_t_needs_the_same_cells_at_every_lambda_and_holm_does_not(published: pl.DataFrame) -> None:
    whole, part = pair(published), pair(published.filter(pl.col("question_id") != "q01"))
    with refused(("lambda.different_cells", "lambda 2.0")):
        leakage_over_lambdas({1.0: whole, 2.0: part}, resamples=10, seed=1, level=0.95)
    assert len(leakage_over_lambdas({1.0: whole, 2.0: part}, resamples=10, seed=1, method="Holm", level=0.95)) == 2
    with refused("lambda.none"):
        leakage_over_lambdas({}, resamples=10, seed=1, level=0.95)
