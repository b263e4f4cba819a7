from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from cell_tables import pair, random_cells
from statsmodels.regression.linear_model import OLS

from flatprobe.statistics.bootstrap import draw_weights
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import Options
from flatprobe.statistics.leakage.resampling import cell_draws, question_bootstrap_t

BLANK = Estimate(
    quantity="leakage_difference", contrast="a - b", treated="a", control="b", pool="p",
    estimator="question_bootstrap_t", scope="new questions",
)  # fmt: skip


@pytest.mark.parametrize("dropped", [0.0, 0.15])
def test_the_bootstrap_t_is_that_of_physically_repeated_questions(dropped: float) -> None:
    generator = np.random.default_rng(2)
    cells = random_cells(generator, 4, 7)
    d_PQ, n_PQ = pair(cells.filter(pl.Series(generator.random(cells.height) >= dropped))).table()
    there_PQ = np.ones_like(d_PQ) if n_PQ is None else n_PQ
    options = Options(resamples=99, level=0.9, margin=0.05, equivalence_margin=0.2)
    estimate = question_bootstrap_t(BLANK, d_PQ, n_PQ, options, np.random.default_rng(3))
    mean, error = _clustered(d_PQ, there_PQ, np.arange(7))
    draws = []
    for weights in draw_weights(7, 99, np.random.default_rng(3)):
        drawn, drawn_error = _clustered(d_PQ, there_PQ, np.repeat(np.arange(7), weights.astype(int)))
        draws.append((drawn - mean) / drawn_error)
    t = np.array(draws)
    low, high = np.quantile(t, 0.05, method="lower"), np.quantile(t, 0.95, method="higher")
    assert (estimate.estimate, estimate.standard_error) == (pytest.approx(mean), pytest.approx(error))
    assert estimate.ci_low == pytest.approx(mean - high * error)
    assert estimate.ci_high == pytest.approx(mean - low * error)
    above, below = (np.sum(t >= (mean - null) / error) for null in (0.05, -0.2))
    assert estimate.superiority_p == pytest.approx((1 + above) / 100)
    other = np.sum(t <= (mean - 0.2) / error)
    assert estimate.equivalence_p == pytest.approx((1 + max(below, other)) / 100)


def _clustered(d_PQ: np.ndarray, there_PQ: np.ndarray, questions: np.ndarray) -> tuple[float, float]:
    """Mean and its error by statsmodels, each entry of `questions` being a cluster of its own."""
    values, clusters = [], []
    for cluster, question in enumerate(questions):
        for persona in np.flatnonzero(there_PQ[:, question]):
            values.append(d_PQ[persona, question])
            clusters.append(cluster)
    fit = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": np.array(clusters)})
    return float(fit.params[0]), float(fit.bse[0])


def test_tables_drawn_together_share_their_cells() -> None:
    d_C = np.random.default_rng(4).normal(size=30)
    draws = cell_draws(np.stack([d_C, 2 * d_C + 1], axis=1), 50, np.random.default_rng(5))
    assert draws[:, 1] == pytest.approx(2 * draws[:, 0] + 1)
    assert draws[:, 0].std() > 0


def test_weights_are_multinomial() -> None:
    weights = draw_weights(5, 40_000, np.random.default_rng(6))
    assert (weights.sum(axis=1) == 5).all()
    # Var = n p (1 - p) = .8 and Cov = -n p^2 = -.2
    assert np.cov(weights.T) == pytest.approx(np.eye(5) - 0.2, abs=0.03)
