"""Size, power and coverage of the estimators in simulated leakage studies."""

from __future__ import annotations

import numpy as np
import pytest

from flatprobe.errors import UserError
from flatprobe.simulation.grid import Grid, Simulated, grid_problems, simulate
from flatprobe.simulation.leakage import LeakageRow, share

STUDIES = 150


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate(
        Grid(studies=STUDIES, resamples=400, variances=("none", "parent"), truths=(0.0, 0.3), joint=False, seed=3)
    )


def row(simulated: Simulated, estimator: str, variance: str = "parent", truth: float = 0.0) -> LeakageRow:
    key = (estimator, variance, truth)
    return next(row for row in simulated.leakage if (row.estimator, row.variance, row.truth) == key)


def test_treating_cells_as_independent_rejects_far_too_often_when_personas_differ(simulated: Simulated) -> None:
    oversized = row(simulated, "cell_bootstrap").rejected_05
    assert oversized is not None and oversized.value > 0.35


@pytest.mark.parametrize("estimator", ["crossed_anova", "two_way_cluster_t", "pigeonhole_t"])
def test_crossed_analyses_keep_their_size_when_personas_differ(simulated: Simulated, estimator: str) -> None:
    crossed = row(simulated, estimator)
    assert crossed.rejected_05 is not None and crossed.rejected_05.value < 0.09
    assert crossed.coverage is not None and crossed.coverage.value > 0.91
    assert crossed.coverage == crossed.own_coverage


def test_the_cell_bootstrap_keeps_its_size_where_cells_are_independent(simulated: Simulated) -> None:
    bootstrap = row(simulated, "cell_bootstrap", "none")
    assert bootstrap.rejected_05 is not None and bootstrap.rejected_05.value < 0.1
    assert bootstrap.coverage is not None and bootstrap.coverage.value > 0.9


@pytest.mark.parametrize("estimator", ["completion_resampling", "question_t", "question_bootstrap_t", "persona_t"])
def test_intervals_cover_the_truth_of_their_own_scope(simulated: Simulated, estimator: str) -> None:
    coverage = row(simulated, estimator).own_coverage
    assert coverage is not None and coverage.value > 0.89


@pytest.mark.parametrize("estimator", ["completion_resampling", "question_t", "question_bootstrap_t"])
def test_intervals_about_these_personas_miss_the_populations_difference(simulated: Simulated, estimator: str) -> None:
    coverage = row(simulated, estimator).coverage
    assert coverage is not None and coverage.value < 0.7


def test_no_estimator_is_biased(simulated: Simulated) -> None:
    for result in simulated.leakage:
        assert abs(result.bias) < 4 * result.standard_deviation / STUDIES**0.5


def test_power_rises_with_the_difference(simulated: Simulated) -> None:
    size, power = (row(simulated, "crossed_anova", truth=truth).rejected_05 for truth in (0.0, 0.3))
    assert size is not None and power is not None and power.value > size.value + 0.3


def test_a_level_that_no_p_of_the_design_can_reach_has_no_share(simulated: Simulated) -> None:
    assert row(simulated, "persona_sign_flip").rejected_05 is not None
    assert row(simulated, "persona_sign_flip").rejected_001 is None  # its floor is 2 / 2^7
    assert row(simulated, "cell_bootstrap").rejected_001 is None  # its floor is 2 / 401
    assert row(simulated, "question_t").rejected_001 is not None


def test_a_test_without_interval_has_no_coverage(simulated: Simulated) -> None:
    assert row(simulated, "persona_sign_flip").coverage is None
    assert row(simulated, "persona_sign_flip").mean_standard_error is None


def test_the_same_seed_gives_the_same_numbers_in_any_grid_and_another_seed_does_not() -> None:
    small = Grid(studies=30, resamples=50, variances=("mild",), truths=(0.15,), joint=False)
    alone = simulate(small).leakage
    wider = Grid(studies=30, resamples=50, variances=("none", "mild"), truths=(0.0, 0.15), joint=False)
    assert alone == tuple(r for r in simulate(wider).leakage if (r.variance, r.truth) == ("mild", 0.15))
    other = Grid(studies=30, resamples=50, variances=("mild",), truths=(0.15,), joint=False, seed=1)
    assert simulate(other).leakage != alone


def test_the_number_of_processes_changes_nothing_and_progress_is_reported() -> None:
    grid = Grid(studies=40, resamples=50, variances=("parent",), truths=(0.0,), joint=False)
    progress: list[tuple[int, int]] = []
    assert simulate(grid, jobs=2, done=lambda finished, total: progress.append((finished, total))) == simulate(grid)
    assert progress[-1] == (40, 40)


def test_an_error_of_no_studies_out_of_many_is_not_zero() -> None:
    none_of_many = share(0, 400)
    assert none_of_many.value == 0.0
    assert 0.0 < none_of_many.error < 0.005
    assert share(200, 400).error == pytest.approx(0.025, rel=1e-2)


def test_all_problems_of_a_grid_are_reported_at_once() -> None:
    grid = Grid(studies=1, resamples=500, variances=("none", "wild"), truths=(0.0, 0.0, 1.2, np.nan))
    problems = {(problem.code, problem.place) for problem in grid_problems(grid)}
    assert problems == {
        ("simulation.size", "studies"),
        ("simulation.values", "truth"),
        ("simulation.truth", "truth"),
        ("simulation.regime", "variance"),
        ("simulation.resamples", "resamples"),
    }
    with pytest.raises(UserError) as raised:
        simulate(grid, jobs=0)
    assert ("simulation.size", "jobs") in {(problem.code, problem.place) for problem in raised.value.problems}


def test_too_few_resamples_for_the_rules_p_are_refused_only_where_a_verdict_is_simulated() -> None:
    assert grid_problems(Grid(resamples=1999)) != []
    assert grid_problems(Grid(resamples=2000)) == []
    assert grid_problems(Grid(resamples=1999, joint=False)) == []
