from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from flatprobe.errors import UserError
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import superiority, tost

ESTIMATE = Estimate(
    quantity="leakage_difference", contrast="a - b", treated="a", control="b", pool="bystanders",
    estimator="crossed_anova", scope="new personas and questions", estimate=0.02, standard_error=0.01, df=6.0,
)  # fmt: skip


def test_superiority_is_one_half_exactly_at_the_margin() -> None:
    assert superiority(ESTIMATE, 0.02) == pytest.approx(0.5)
    assert superiority(ESTIMATE, 0.0) == pytest.approx(stats.t.sf(2, 6))


def test_tost_is_the_larger_of_its_two_one_sided_tests() -> None:
    assert tost(ESTIMATE, 0.05) == pytest.approx(stats.t.sf(3, 6))
    assert tost(ESTIMATE, 0.01) == pytest.approx(stats.t.cdf(1, 6))


def test_tests_against_a_margin_need_a_standard_error() -> None:
    unknown = replace(ESTIMATE, standard_error=None)
    constant = replace(ESTIMATE, standard_error=0.0)
    for estimate in (unknown, constant):
        assert superiority(estimate, 0.1) is None and tost(estimate, 0.1) is None


def test_equivalence_needs_a_positive_margin() -> None:
    with pytest.raises(UserError):
        tost(ESTIMATE, 0.0)
