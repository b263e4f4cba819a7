"""Populations with a known truth: rates, variance components and the truths of every scope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from flatprobe.errors import UserError
from flatprobe.simulation.cells import OWN_SCOPE, StudySize, draw
from flatprobe.simulation.truth import Truth, calibrate, regime, shared_variance
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.planning.components import PUBLISHED, Components, estimate_components


@pytest.mark.parametrize("correlation", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("rate", [0.03, 0.4, 0.8])
def test_shared_variance_is_a_bivariate_normal_probability(correlation: float, rate: float) -> None:
    h = norm.ppf(rate)
    both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([h, h])
    assert shared_variance(correlation, (rate, rate)) == pytest.approx(2 * (both - rate**2), abs=1e-7)


@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.15, 0.6])
def test_a_population_has_exactly_the_components_and_the_difference_it_was_calibrated_to(difference: float) -> None:
    truth = calibrate(PUBLISHED, difference)
    components = truth.components()
    assert truth.difference == difference
    assert components.persona == pytest.approx(PUBLISHED.persona, abs=1e-9)
    assert components.question == pytest.approx(PUBLISHED.question, abs=1e-9)
    assert components.interaction == pytest.approx(PUBLISHED.interaction, abs=1e-9)


def test_drawn_cells_have_the_rates_and_components_of_their_population() -> None:
    truth = calibrate(PUBLISHED, 0.30)
    drawn = draw(truth, StudySize(personas=600, questions=600, completions=10), np.random.default_rng(1))
    cells = drawn.cells
    assert (cells.hits_treated / cells.total_treated).mean() == pytest.approx(truth.rates_C[0], abs=0.02)
    assert (cells.hits_control / cells.total_control).mean() == pytest.approx(truth.rates_C[1], abs=0.02)
    estimated, expected = estimate_components(cells), truth.components()
    assert estimated.persona == pytest.approx(expected.persona, rel=0.15)
    assert estimated.question == pytest.approx(expected.question, rel=0.3)
    assert estimated.interaction == pytest.approx(expected.interaction, rel=0.05)
    assert estimated.completion == pytest.approx(expected.completion, rel=0.02)


def test_equal_rates_make_the_two_conditions_exchangeable() -> None:
    truth = calibrate(PUBLISHED, 0.0)
    assert truth.rates_C[0] == truth.rates_C[1]
    assert truth.intercepts_C[0] == truth.intercepts_C[1]
    assert truth.difference == 0.0


def test_the_truth_given_personas_is_the_average_over_all_other_questions() -> None:
    truth = calibrate(PUBLISHED, 0.15)
    u_CP = np.random.default_rng(2).normal(scale=truth.persona**0.5, size=(2, 5))
    others = np.random.default_rng(3).normal(scale=(truth.question + truth.interaction) ** 0.5, size=400_000)
    by_hand = norm.cdf(truth.intercepts_C[:, None, None] + u_CP[:, :, None] + others).mean(axis=2)
    assert np.allclose(truth.expected_rate_C(u_CP, truth.persona), by_hand, atol=2e-3)


def test_without_persona_variance_the_truth_given_personas_is_the_populations() -> None:
    drawn = draw(calibrate(regime("none"), 0.15), StudySize(), np.random.default_rng(4))
    assert drawn.truths["personas"] == pytest.approx(0.15, abs=1e-12)
    assert drawn.truths["questions"] == pytest.approx(0.15, abs=1e-12)
    assert drawn.truths["cells"] != pytest.approx(0.15, abs=1e-6)


def test_every_estimator_has_a_scope_with_a_known_truth() -> None:
    drawn = draw(calibrate(PUBLISHED, 0.15), StudySize(), np.random.default_rng(5))
    assert list(OWN_SCOPE) == list(SCOPES)
    assert set(OWN_SCOPE.values()) <= set(drawn.truths)


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Code and place of the one problem that the call raises."""
    with pytest.raises(UserError) as raised:
        call()
    [problem] = raised.value.problems
    return problem.code, problem.place


def test_rates_outside_zero_and_one_are_refused() -> None:
    assert refusal(lambda: calibrate(PUBLISHED, 0.9)) == ("simulation.truth", "truth")


def test_components_larger_than_binomial_variance_are_refused() -> None:
    components = Components(persona=0.4, question=0.1, interaction=0.1, completion=None)
    assert refusal(lambda: calibrate(components, 0.0)) == ("simulation.components", "variance")


def test_an_interaction_below_what_large_effects_imply_is_refused() -> None:
    components = Components(persona=0.15, question=0.15, interaction=0.0, completion=None)
    assert refusal(lambda: calibrate(components, 0.0)) == ("simulation.interaction", "variance")


def test_an_unknown_regime_is_refused() -> None:
    assert refusal(lambda: regime("wild")) == ("simulation.regime", "variance")


def test_the_mild_regime_lies_between_none_and_the_published_one() -> None:
    assert regime("none").persona == 0.0
    assert 0.0 < regime("mild").persona < regime("parent").persona == PUBLISHED.persona


def test_components_of_a_truth_given_by_hand_have_a_closed_form() -> None:
    truth = Truth(rates_C=(0.5, 0.5), persona=1.0, question=0.0, interaction=0.0)
    # Phi2(0, 0; rho) = 1/4 + arcsin(rho) / (2 pi), with rho = 1/2
    assert truth.components().persona == pytest.approx(2 * np.arcsin(0.5) / (2 * np.pi), abs=1e-12)
