"""Forecasts against simulated tables, scipy's noncentral t, and the estimators' own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.inference import Spread, one_way, t_inference
from flatprobe.statistics.leakage import crossed
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.leakage.seeds import SEED_SCOPES, crossed_anova_seed
from flatprobe.statistics.planning.components import PUBLISHED, Components
from flatprobe.statistics.planning.expected_errors import ErrorModel, error_model
from flatprobe.statistics.planning.forecasts import Forecast, designs_reaching, forecasts, leg_forecasts
from flatprobe.statistics.planning.mean_squares import Design
from flatprobe.statistics.planning.power import passing, rejection, smallest_detectable

DESIGN = Design(personas=7, questions=20, completions=10)
SMALL = Design(personas=4, questions=6, completions=5)
STUDIES = 1500
MILD = Components(persona=0.01, question=0.008, interaction=0.02, completion=0.3)


def model(estimator: str, design: Design = DESIGN, components: Components = PUBLISHED) -> ErrorModel:
    found = error_model(estimator, design, components)
    assert isinstance(found, ErrorModel), found
    return found


def rows(components: Components = PUBLISHED, design: Design = DESIGN) -> dict[str, Forecast]:
    found = forecasts(design, components, margin=0.15, p_below=0.001, alpha=0.05, power=0.8)
    return {row.estimator: row for row in found}


def tables(design: Design, components: Components, delta: float, studies: int = STUDIES) -> Array:
    """Tables of differences with normal effects, shape (studies, personas, questions)."""
    generator = np.random.default_rng(11)
    shape = (studies, design.personas, design.questions)
    cell = components.interaction + components.noise / design.completions
    d_SPQ: Array = (
        delta
        + generator.normal(0, components.persona**0.5, (*shape[:2], 1))
        + generator.normal(0, components.question**0.5, (studies, 1, shape[2]))
        + generator.normal(0, cell**0.5, shape)
    )
    return d_SPQ


def by_cells(d_PQ: Array) -> Spread:
    """The cell bootstrap's standard error without the draws' noise; normal percentiles."""
    return Spread(float(d_PQ.std()) / d_PQ.size**0.5, 1e9)


def by_pigeonhole(d_PQ: Array) -> Spread:
    """The bootstrap's own code, on a few tables only."""
    draws = crossed.pigeonhole_draws(d_PQ, 500, np.random.default_rng(0))
    return Spread(float(draws.std(ddof=1)), float(min(d_PQ.shape) - 1))


SPREADS: dict[str, Callable[[Array], Spread]] = {
    "crossed_anova": crossed.crossed_anova,
    "two_way_cluster_t": crossed.two_way_cluster,
    "question_t": lambda d_PQ: one_way(d_PQ.mean(axis=0)),
    "persona_t": lambda d_PQ: one_way(d_PQ.mean(axis=1)),
    "cell_bootstrap": by_cells,
}


@pytest.mark.parametrize("estimator", SPREADS)
@pytest.mark.parametrize("delta", [0.0, 0.25])
def test_forecast_power_is_the_share_of_simulated_studies_rejected(estimator: str, delta: float) -> None:
    spread, rejected, squares = SPREADS[estimator], 0, 0.0
    for d_PQ in tables(DESIGN, PUBLISHED, delta):
        found = spread(d_PQ)
        squares += found.standard_error**2
        p_value = t_inference(float(d_PQ.mean()), found, 0.95).p_value
        rejected += p_value is not None and p_value < 0.05
    expected = model(estimator)
    share = rejection(expected, delta, 0.05, sd=expected.sd_in_population)
    assert share is not None
    assert rejected / STUDIES == pytest.approx(share, abs=3.5 * (share * (1 - share) / STUDIES) ** 0.5 + 0.004)
    assert (squares / STUDIES) ** 0.5 == pytest.approx(expected.standard_error, rel=0.03)


def test_the_pigeonhole_forecast_is_what_the_bootstrap_reports() -> None:
    squares = [by_pigeonhole(d_PQ).standard_error ** 2 for d_PQ in tables(SMALL, MILD, 0.1, studies=400)]
    assert np.mean(squares) ** 0.5 == pytest.approx(model("pigeonhole_t", SMALL, MILD).standard_error, rel=0.05)


def test_standard_errors_are_the_closed_forms() -> None:
    cell = PUBLISHED.interaction + PUBLISHED.noise / 10
    persona, question = PUBLISHED.persona / 7, PUBLISHED.question / 20
    assert model("question_t").standard_error ** 2 == pytest.approx(question + cell / 140)
    assert model("persona_t").standard_error ** 2 == pytest.approx(persona + cell / 140)
    assert model("crossed_anova").standard_error ** 2 == pytest.approx(persona + question + cell / 140)
    assert model("completion_resampling").standard_error ** 2 == pytest.approx(PUBLISHED.noise * 0.9 / 1400)


def test_the_published_components_give_back_the_published_standard_errors() -> None:
    """Those of the worked example, since the components are estimated from its mean squares."""
    expected = {"question_t": 2.81, "persona_t": 9.99, "crossed_anova": 10.1, "two_way_cluster_t": 9.89}
    expected |= {"cell_bootstrap": 3.15, "pigeonhole_t": 9.88}
    for estimator, points in expected.items():
        assert 100 * model(estimator).standard_error == pytest.approx(points, abs=0.006 * points)


def test_within_its_scope_a_t_test_has_noncentral_t_power() -> None:
    for estimator, df in (("question_t", 19), ("persona_t", 6)):
        own = model(estimator)
        assert own.sd_in_scope == pytest.approx(own.standard_error)
        for delta, alpha in ((0.0, 0.05), (0.0, 0.001), (0.08, 0.05), (0.1, 0.001)):
            bound, shift = stats.t.isf(alpha / 2, df), delta / own.standard_error
            oracle = stats.nct.sf(bound, df, shift) + stats.nct.cdf(-bound, df, shift)
            assert rejection(own, delta, alpha, sd=own.sd_in_scope) == pytest.approx(oracle, rel=0.02)


def test_power_at_the_smallest_detectable_difference_is_the_wished_one() -> None:
    for estimator in SCOPES:
        own = model(estimator)
        found = smallest_detectable(own, 0.05, 0.8)
        assert found is not None
        assert rejection(own, found, 0.05, sd=own.sd_in_scope) == pytest.approx(0.8, abs=1e-4)


def test_honest_estimators_keep_their_size_and_the_registered_rule_does_not() -> None:
    size = {name: row.size_in_population or 0.0 for name, row in rows().items()}
    assert size["crossed_anova"] == pytest.approx(0.05, abs=1e-3)
    assert size["two_way_cluster_t"] < 0.06
    assert size["cell_bootstrap"] == pytest.approx(0.55, abs=0.02)
    assert size["completion_resampling"] > size["question_t"] > 0.5


def test_without_differences_between_personas_cells_are_what_they_seem() -> None:
    flat = replace(PUBLISHED, persona=0.0, question=0.0)
    assert rows(flat)["cell_bootstrap"].size_in_population == pytest.approx(0.05, abs=0.005)


def test_a_sign_flip_of_few_personas_cannot_reach_a_small_p() -> None:
    row = rows()["persona_sign_flip"]
    assert row.smallest_attainable_p == 2 / 2**7
    assert row.mde is not None and row.mde_registered is None
    assert row.note is not None and "p < 0.001 is impossible" in row.note
    four = rows(design=replace(DESIGN, personas=5))["persona_sign_flip"]  # floor .0625
    assert four.mde is None and four.power_at_margin is None and four.size_in_population is None


def test_a_sign_flip_is_held_at_its_largest_level_below_alpha() -> None:
    assert rows()["persona_sign_flip"].size_in_population == pytest.approx(3 / 64, abs=0.004)


def test_sign_flip_power_is_near_that_of_simulated_studies() -> None:
    signs = 1 - 2.0 * ((np.arange(128)[:, None] >> np.arange(7)) & 1)
    means_SP = tables(DESIGN, PUBLISHED, 0.3).mean(axis=2)
    flipped = np.abs(means_SP @ signs.T)
    p_values = (flipped >= np.abs(means_SP.sum(axis=1))[:, None] - 1e-12).mean(axis=1)
    own = model("persona_sign_flip")
    assert np.mean(p_values < 0.05) == pytest.approx(rejection(own, 0.3, 0.05, sd=own.sd_in_population), abs=0.05)


def test_too_few_resamples_cannot_reach_the_registered_p() -> None:
    coarse = replace(DESIGN, resamples=1999)  # the floor is .001 itself
    assert rows(design=coarse)["cell_bootstrap"].mde_registered is None
    leg = leg_forecasts(coarse, PUBLISHED, estimator="cell_bootstrap", margin=0.15, p_below=0.001, truths=[0.3])
    assert leg == "the smallest attainable p is 0.001"
    assert rows(design=replace(DESIGN, resamples=2000))["cell_bootstrap"].mde_registered is not None


def test_the_registered_leg_passes_as_often_as_in_simulated_studies() -> None:
    for truth in (0.0, 0.15, 0.3):
        leg = leg_forecasts(DESIGN, PUBLISHED, estimator="cell_bootstrap", margin=0.15, p_below=0.001, truths=[truth])
        assert not isinstance(leg, str)
        d_SPQ = tables(DESIGN, PUBLISHED, truth)
        means, errors = d_SPQ.mean(axis=(1, 2)), d_SPQ.std(axis=(1, 2)) / 140**0.5
        passed = np.mean((means >= 0.15) & (2 * stats.norm.sf(means / errors) < 0.001))
        assert leg[0].in_population == pytest.approx(passed, abs=0.04)


def test_at_the_margin_half_of_the_estimates_fall_short() -> None:
    own = model("cell_bootstrap")
    assert passing(own, 0.15, 0.15, 0.5, sd=own.sd_in_scope) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("margin", [0.05, 0.15, 0.3])
def test_the_smallest_number_reaches_the_power_and_one_less_does_not(margin: float) -> None:
    for need in designs_reaching(0.8, DESIGN, MILD, effect=margin, alpha=0.05):
        if need.needed is None:
            continue
        powers = []
        for number in (need.needed - 1, need.needed):
            found = error_model("crossed_anova", replace(DESIGN, **{need.factor: max(1, number)}), MILD)
            powers.append(
                0.0 if isinstance(found, str) else rejection(found, margin, 0.05, sd=found.sd_in_scope) or 0.0
            )
        assert powers[1] >= 0.8
        assert need.needed == 1 or powers[0] < 0.8


def test_more_questions_cannot_replace_personas() -> None:
    needs = {need.factor: need for need in designs_reaching(0.8, DESIGN, PUBLISHED, effect=0.15, alpha=0.05)}
    assert needs["personas"].needed == 29
    assert needs["questions"].needed is needs["completions"].needed is needs["seeds"].needed is None
    assert needs["questions"].standard_error_left == pytest.approx((PUBLISHED.persona / 7) ** 0.5, rel=1e-4)


def test_training_runs_are_forecast_where_their_variance_is_known() -> None:
    assert not set(SEED_SCOPES) & set(rows())
    known = replace(PUBLISHED, seed=0.002)
    assert rows(known)["seed_t"].note == "no forecast: needs at least 3 seeds"
    three = rows(known, replace(DESIGN, seeds=3))
    noise = PUBLISHED.noise / 10
    assert (three["seed_t"].standard_error or 0) ** 2 == pytest.approx((0.002 + noise / 140) / 3)
    cell = PUBLISHED.interaction + noise / 3
    full = PUBLISHED.persona / 7 + PUBLISHED.question / 20 + cell / 140 + 0.002 / 3
    assert (three["crossed_anova_seed"].standard_error or 0) ** 2 == pytest.approx(full)
    assert three["crossed_anova"].size_in_population > 0.05  # training runs vary too, and it does not see them


def test_forecast_of_seeds_is_what_simulated_runs_show() -> None:
    design, components = replace(SMALL, seeds=4), replace(MILD, seed=0.02)
    generator, studies, delta = np.random.default_rng(5), 2000, 0.2
    sizes = {"seed": (4, 1, 1), "persona": (1, 4, 1), "question": (1, 1, 6), "interaction": (1, 4, 6)}
    d = delta + generator.normal(0, (components.noise / 5) ** 0.5, (studies, 4, 4, 6))
    for name, size in sizes.items():
        d += generator.normal(0, getattr(components, name) ** 0.5, (studies, *size))
    spreads = {
        "seed_t": [one_way(means) for means in d.mean(axis=(2, 3))],
        "crossed_anova_seed": [crossed_anova_seed(d_SPQ) for d_SPQ in d],
    }
    for estimator, found in spreads.items():
        own = model(estimator, design, components)
        squares = [spread.standard_error**2 for spread in found]
        assert np.mean(squares) ** 0.5 == pytest.approx(own.standard_error, rel=0.03)
        p_values = [
            t_inference(mean, spread, 0.95).p_value for mean, spread in zip(d.mean(axis=(1, 2, 3)), found, strict=True)
        ]
        rejected = np.mean([p is not None and p < 0.05 for p in p_values])
        assert rejected == pytest.approx(rejection(own, delta, 0.05, sd=own.sd_in_population), abs=0.04)


def test_power_rises_with_the_truth_and_with_every_factor() -> None:
    own = model("crossed_anova")
    powers = [rejection(own, delta, 0.05, sd=own.sd_in_scope) or 0.0 for delta in np.linspace(0, 0.9, 10)]
    assert all(low < high for low, high in pairwise(powers[:8]))
    base = rows(MILD)["crossed_anova"].mde
    for factor in ("personas", "questions", "completions", "seeds"):
        larger = replace(DESIGN, **{factor: 2 * getattr(DESIGN, factor)})
        assert base is not None and (rows(MILD, larger)["crossed_anova"].mde or 1.0) < base


@pytest.mark.parametrize(
    ("design", "without"),
    [
        (replace(DESIGN, personas=1), {"persona_t", "persona_sign_flip", "crossed_anova"}),
        (replace(DESIGN, questions=1), {"question_t", "question_bootstrap_t", "crossed_anova"}),
        (replace(DESIGN, completions=1), {"completion_resampling"}),
    ],
)
def test_what_a_design_does_not_support_has_no_number_but_a_reason(design: Design, without: set[str]) -> None:
    found = rows(design=design)
    for estimator in without:
        assert found[estimator].standard_error is None and found[estimator].note
    assert found["cell_bootstrap"].standard_error is not None


def test_a_single_cell_supports_no_estimator_but_that_of_its_completions() -> None:
    found = rows(design=replace(DESIGN, personas=1, questions=1))
    assert [name for name, row in found.items() if row.standard_error is not None] == ["completion_resampling"]


def test_components_without_any_variance_have_no_forecast() -> None:
    found = rows(Components(0.0, 0.0, 0.0, 0.0))
    assert all(row.standard_error is None and "no variation" in str(row.note) for row in found.values())


def test_impossible_designs_and_shares_are_refused_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Design(personas=0, questions=0, completions=1)
    assert [problem.place for problem in caught.value.problems] == ["design personas", "design questions"]
    with pytest.raises(UserError) as caught:
        forecasts(DESIGN, PUBLISHED, margin=0.15, p_below=0.001, alpha=0.0, power=1.0)
    assert [problem.place for problem in caught.value.problems] == ["alpha", "power"]
