"""Size of the tests when personas differ in their response and there is no average effect."""

from __future__ import annotations

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.inference import Spread, one_way, t_inference
from flatprobe.statistics.leakage.crossed import crossed_anova, two_way_cluster

STUDIES = 600


def rejections(spread: str) -> float:
    """Share of 7 x 20 null studies rejected at .05: persona SD .25, question SD .05, residual SD .25."""
    generator = np.random.default_rng(7)
    rejected = 0
    for _ in range(STUDIES):
        effect_P = generator.normal(0, 0.25, size=(7, 1))
        effect_Q = generator.normal(0, 0.05, size=(1, 20))
        d_PQ = effect_P + effect_Q + generator.normal(0, 0.25, size=(7, 20))
        inference = t_inference(float(d_PQ.mean()), _spread(spread, d_PQ), 0.95)
        rejected += inference.p_value is not None and inference.p_value < 0.05
    return rejected / STUDIES


def _spread(name: str, d_PQ: Array) -> Spread:
    match name:
        case "crossed":
            return crossed_anova(d_PQ)
        case "cluster":
            return two_way_cluster(d_PQ)
    return one_way(d_PQ.ravel())


def test_crossed_analyses_keep_their_size_when_personas_differ() -> None:
    assert rejections("crossed") < 0.075
    assert rejections("cluster") < 0.075


def test_treating_cells_as_independent_does_not() -> None:
    assert rejections("cells") > 0.4
