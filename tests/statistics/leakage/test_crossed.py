from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from cell_tables import groups, pair, random_cells
from scipy import stats
from statsmodels.regression.linear_model import OLS

from flatprobe.statistics import bootstrap
from flatprobe.statistics.inference import Spread, one_way, t_inference
from flatprobe.statistics.leakage.cells import PairedCells
from flatprobe.statistics.leakage.crossed import crossed_anova, one_way_cluster, pigeonhole_draws, two_way_cluster


def unbalanced(seed: int, dropped: float) -> PairedCells:
    """A 6 x 9 table of which a share of the cells is gone."""
    generator = np.random.default_rng(seed)
    cells = random_cells(generator, 6, 9)
    return pair(cells.filter(pl.Series(generator.random(cells.height) >= dropped)))


@pytest.mark.parametrize("dropped", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_clustered_errors_agree_with_statsmodels_on_complete_and_incomplete_tables(seed: int, dropped: float) -> None:
    paired = unbalanced(seed, dropped)
    d_PQ, n_PQ = paired.table()
    assert (n_PQ is None) == (dropped == 0)
    place = groups(paired)
    model = OLS(paired.differences, np.ones(len(place)))
    for axis in (0, 1):
        oracle = model.fit(cov_type="cluster", cov_kwds={"groups": place[:, axis]})
        spread = one_way_cluster(d_PQ, n_PQ, axis=axis)
        assert spread.standard_error == pytest.approx(oracle.bse[0], rel=1e-9)
        assert spread.df == len(np.unique(place[:, axis])) - 1
    both = two_way_cluster(d_PQ, n_PQ)
    assert both.note is None
    oracle = model.fit(cov_type="cluster", cov_kwds={"groups": place})
    assert both.standard_error == pytest.approx(oracle.bse[0], rel=1e-9)


def test_on_a_complete_table_the_cluster_error_is_that_of_group_means() -> None:
    d_PQ = np.random.default_rng(4).normal(size=(5, 8))
    for axis in (0, 1):
        spread, means = one_way_cluster(d_PQ, axis=axis), one_way(d_PQ.mean(axis=1 - axis))
        assert spread.standard_error == pytest.approx(means.standard_error) and spread.df == means.df


def test_crossed_anova_of_a_two_by_two_table_is_the_closed_form() -> None:
    a, b, c, d = 0.5, 0.3, 0.1, 0.0
    # Each mean square of a 2 x 2 table has one df and is a squared contrast over 4.
    persona, question, both = (a + b - c - d) ** 2 / 4, (a - b + c - d) ** 2 / 4, (a - b - c + d) ** 2 / 4
    spread = crossed_anova(np.array([[a, b], [c, d]]))
    combined = persona + question - both
    assert spread.standard_error == pytest.approx((combined / 4) ** 0.5)
    assert spread.df == pytest.approx(combined**2 / (persona**2 + question**2 + both**2))


def test_a_variance_that_cancels_up_to_rounding_counts_as_not_positive() -> None:
    persona, interaction = np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([[1.0, -1.0], [-1.0, 1.0]])
    for scale in (3.0, 7.0, 11.0):  # MS_P = MS_PQ and MS_Q = 0, so the variance is 0 but for rounding
        d_PQ = (persona + interaction) / scale
        spread = crossed_anova(d_PQ)
        assert "larger one-way variance (persona)" in (spread.note or "")
        assert spread.standard_error == pytest.approx(one_way(d_PQ.mean(axis=1)).standard_error)


def test_pigeonhole_draws_have_the_variance_of_the_pigeonhole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 5000)
    d_PQ = np.random.default_rng(5).normal(size=(5, 8))
    draws = pigeonhole_draws(d_PQ, 40_000, np.random.default_rng(6))
    # Var = sum over cells pairs of Cov(w_p w_q, w_p' w_q') d d', with multinomial weights of mean 1.
    cov_P, cov_Q = np.eye(5) - 1 / 5, np.eye(8) - 1 / 8
    exact = (
        np.einsum("pq,pr,qs,rs->", d_PQ, cov_P, cov_Q, d_PQ)
        + np.einsum("pq,pr,rs->", d_PQ, cov_P, d_PQ)
        + np.einsum("pq,qs,rs->", d_PQ, cov_Q, d_PQ)
    ) / 40**2
    assert draws.var() == pytest.approx(exact, rel=0.03)
    assert draws.mean() == pytest.approx(d_PQ.mean(), abs=4 * exact**0.5 / 200)


def test_a_pigeonhole_draw_without_any_cell_is_undefined_and_not_zero() -> None:
    d_PQ, n_PQ = np.array([[0.0, 0.2], [0.3, 0.4]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    draws = pigeonhole_draws(d_PQ, 4000, np.random.default_rng(1), n_PQ)
    # All weight on the missing cell: both personas and both questions draw index 0.
    assert np.isnan(draws).mean() == pytest.approx(1 / 16, abs=0.02)
    assert np.nanmin(draws) >= 0.2 - 1e-12


def test_t_inference_agrees_with_scipy_for_fractional_df() -> None:
    inference = t_inference(0.3, Spread(0.1, 6.264), 0.9)
    half = stats.t.ppf(0.95, 6.264) * 0.1
    assert inference.ci_low == pytest.approx(0.3 - half) and inference.ci_high == pytest.approx(0.3 + half)
    assert inference.p_value == pytest.approx(2 * stats.t.sf(3, 6.264))


def test_a_variance_with_less_than_one_degree_of_freedom_is_not_used() -> None:
    persona = np.array([[0.3], [0.1], [-0.1], [-0.3]])
    interaction = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    clear, doubtful = (crossed_anova(persona + size * interaction) for size in (0.05, 0.36))
    assert clear.note is None and 1 < clear.df < 3
    # MS_P - MS_PQ is still positive, but a small difference of large mean squares.
    assert doubtful.df == 3 and "larger one-way variance (persona)" in (doubtful.note or "")
