from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_states import BYSTANDERS, LAYERS, PERSONAS, QUESTIONS, contrast_of, options, planted_states
from scipy import stats

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import draw_weights
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.measures import MEASURES
from flatprobe.statistics.geometry.states import States

BASE = planted_states("base_first")


def contrast(
    treated: States, control: States = BASE, resamples: int = 300
) -> dict[tuple[str, str, int | None], Estimate]:
    estimates = contrast_of(treated, control, resamples=resamples)
    return {(row.quantity, row.estimator, row.layer): row for row in estimates}


def aggregate(treated: States, control: States = BASE) -> dict[str, float]:
    rows = contrast(treated, control, resamples=20)
    return {
        name: row.estimate
        for (name, estimator, layer), row in rows.items()
        if layer is None and estimator == "question_bootstrap" and row.estimate is not None
    }


def test_identical_states_give_exactly_no_difference() -> None:
    for (name, _, _), row in contrast(planted_states("em_first")).items():
        assert row.estimate == (1.0 if name.endswith("_ratio") else 0.0)
        if row.estimator == "question_bootstrap":
            assert row.p_value == 1.0 and row.ci_low == row.ci_high == row.estimate


def test_contraction_moves_contraction_and_cosines_but_not_noise_or_translation() -> None:
    values = aggregate(planted_states("em_first", persona=0.5))
    assert values["contraction"] == pytest.approx(np.log(4), abs=0.15)
    assert values["scatter_ratio"] == pytest.approx(np.exp(-values["contraction"]))
    assert values["scatter_ratio"] == pytest.approx(0.25, abs=0.03)
    assert values["cosine_difference"] > 0.03 and values["crossvalidated_cosine_difference"] > 0.03
    assert abs(values["noise_share"]) < 0.1 * values["cosine_difference"]
    assert abs(values["translation_share"]) < 0.05 * values["cosine_difference"]
    assert values["noise_ratio"] == pytest.approx(1.0, abs=0.06)


def test_translation_moves_cosines_only_by_their_translation_share() -> None:
    values = aggregate(planted_states("em_first", translation=0.5))
    assert values["cosine_difference"] > 0.02
    assert values["cosine_difference_minus_translation"] == pytest.approx(0, abs=1e-6)
    assert abs(values["noise_share"]) < 0.15 * values["cosine_difference"]
    assert values["contraction_minus_noise"] == pytest.approx(0, abs=1e-5)
    # Longer states shrink the scaled scatter by the norm alone.
    assert values["contraction"] == pytest.approx(2 * np.log(values["norm_ratio"]), abs=1e-5)


def test_less_noise_moves_the_raw_cosine_and_its_noise_share_but_not_the_crossvalidated_one() -> None:
    planted = [
        aggregate(planted_states("em_first", noise=0.25, seed=seed), planted_states("base", noise=2.0, seed=seed))
        for seed in range(30)
    ]
    values = {name: float(np.mean([row[name] for row in planted])) for name in planted[0]}
    assert values["cosine_difference"] > 0.008
    assert values["noise_share"] == pytest.approx(values["cosine_difference"], rel=0.1)
    assert abs(values["crossvalidated_cosine_difference"]) < 0.1 * values["cosine_difference"]
    assert values["noise_ratio"] == pytest.approx(1 / 64, rel=0.05)
    assert values["contraction"] == pytest.approx(0, abs=0.05)
    assert values["norm_ratio"] == pytest.approx(1, abs=0.005)
    assert values["contraction_minus_noise"] == pytest.approx(-np.log(64), abs=0.15)


@pytest.mark.parametrize(("change", "norm"), [({"rotated": True}, 1.0), ({"scale": 3.0}, 3.0)])
def test_a_rotation_and_a_common_scale_move_no_measure_but_the_norm(change: dict[str, float], norm: float) -> None:
    values = aggregate(planted_states("em_first", **change))
    assert values.pop("norm_ratio") == pytest.approx(norm, rel=1e-5)
    for name in ("unscaled_scatter_ratio", "unscaled_noise_ratio"):
        assert values.pop(name) == pytest.approx(norm**2, rel=1e-4)
    if "rotated" in change:  # the largest dimensions are no longer those of the control
        for name in ("translation_share", "cosine_difference_minus_translation", "trimmed_cosine_difference"):
            del values[name]
    else:
        assert values.pop("translation_share") == pytest.approx(
            -values.pop("cosine_difference_minus_translation"), abs=1e-6
        )
    for name, value in values.items():
        assert value == pytest.approx(1.0 if name.endswith("_ratio") else 0.0, abs=2e-5), name


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def mean_centroid_cosine(states: States, layer: int, questions: list[int]) -> float:
    """Oracle: centroids made by averaging states, question by question."""
    h_PQD = states.h_PQLD[:, :, LAYERS.index(layer)].astype(np.float64)[:, questions].mean(axis=1)
    return float(np.mean([cosine(h_PQD[0], h_PQD[PERSONAS.index(name)]) for name in BYSTANDERS]))


def test_the_registered_cosine_and_its_jackknife_agree_with_averaged_states() -> None:
    treated = planted_states("em_first", persona=0.7, seed=6)
    rows = contrast(treated)
    everything = list(range(len(QUESTIONS)))
    values = [
        [mean_centroid_cosine(treated, layer, kept) - mean_centroid_cosine(BASE, layer, kept) for layer in LAYERS]
        for kept in [everything, *([q for q in everything if q != left] for left in everything)]
    ]
    assert rows["cosine_difference", "question_bootstrap", 7].estimate == pytest.approx(values[0][1], abs=1e-9)
    left_out = np.mean(values[1:], axis=1)
    error = np.sqrt(((left_out - left_out.mean()) ** 2).sum() * 11 / 12)
    jackknife = rows["cosine_difference", "question_jackknife_t", None]
    assert jackknife.estimate == pytest.approx(np.mean(values[0]), abs=1e-9)
    assert jackknife.standard_error == pytest.approx(error, rel=1e-6) and jackknife.df == 11


def test_bootstrap_draws_are_those_of_resampled_centroids() -> None:
    treated = planted_states("em_first", persona=0.7)
    row = contrast(treated, resamples=200)["cosine_difference", "question_bootstrap", 3]
    weights = draw_weights(12, 200, np.random.default_rng(1))
    draws = []
    for weight in weights:
        drawn = np.repeat(np.arange(12), weight.astype(int)).tolist()
        draws.append(mean_centroid_cosine(treated, 3, drawn) - mean_centroid_cosine(BASE, 3, drawn))
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-9)
    assert row.bootstrap_bias == pytest.approx(np.mean(draws) - row.estimate, abs=1e-9)


def test_an_estimate_outside_its_own_percentile_interval_is_flagged() -> None:
    rows = contrast(planted_states("em_first", noise=0.25), planted_states("base_first", noise=2.0), 500)
    row = rows["cosine_difference", "question_bootstrap", None]
    assert row.outside_own_interval is True and row.bootstrap_bias is not None and row.bootstrap_bias > 0
    unbiased = rows["contraction", "question_jackknife_t", None]
    assert unbiased.estimate is not None and unbiased.outside_own_interval is None


def test_personas_without_scatter_leave_contraction_undefined_with_a_reason() -> None:
    collapsed = planted_states("em_first", persona=0.0)
    same = replace(collapsed, h_PQLD=np.repeat(collapsed.h_PQLD[:1], len(PERSONAS), axis=0))
    rows = contrast(same)
    for layer in (*LAYERS, None):
        row = rows["contraction", "question_bootstrap", layer]
        assert row.estimate is None and row.ci_low is None and "not positive" in (row.note or "")
    cosines = rows["cosine_difference", "question_bootstrap", None]
    assert cosines.estimate is not None and cosines.estimate > 0.02


def test_the_persona_jackknife_of_the_cosine_is_the_t_over_the_bystanders_own_differences() -> None:
    treated = planted_states("em_first", persona=0.5)
    row = contrast(treated)["cosine_difference", "persona_jackknife_t", None]
    own = [
        np.mean([bystander_cosine(treated, layer, name) - bystander_cosine(BASE, layer, name) for layer in LAYERS])
        for name in BYSTANDERS
    ]
    test = stats.ttest_1samp(own, 0.0)
    assert (row.df, row.estimate) == (3, pytest.approx(np.mean(own), abs=1e-9)) and "new personas" in row.scope
    assert row.standard_error == pytest.approx(stats.sem(own), rel=1e-9)
    assert row.p_value == pytest.approx(test.pvalue, rel=1e-9)


def bystander_cosine(states: States, layer: int, name: str) -> float:
    h_PQD = states.layer(layer, ("source", name)).mean(axis=1)
    return cosine(h_PQD[0], h_PQD[1])


def test_every_measure_has_a_persona_jackknife() -> None:
    rows = contrast(planted_states("em_first", persona=0.5), resamples=20)
    for name in MEASURES:
        row = rows[name, "persona_jackknife_t", None]
        assert row.standard_error is not None and row.df == 3, name


def test_one_bystander_gives_estimates_without_a_persona_jackknife() -> None:
    measures = ("cosine_difference", "noise_ratio")
    rows = contrast_of(planted_states("em_first", persona=0.5), BASE, ("near",), measures=measures)
    alone = [row for row in rows if row.estimator == "persona_jackknife_t"]
    assert {row.quantity for row in alone} == {"cosine_difference", "noise_ratio"}
    for row in alone:
        assert row.estimate is not None and row.p_value is None and row.df is None
        assert "one bystander" in (row.note or "")


def test_bootstrap_rows_of_a_layer_are_adjusted_for_the_layers_and_no_others() -> None:
    rows = contrast(planted_states("em_first", persona=0.9, seed=8))
    for (name, estimator, layer), row in rows.items():
        if estimator == "question_bootstrap" and layer is not None:
            assert row.family == "max-T over 2 layers", name
            assert row.adjusted_p is not None and 1 / 301 <= row.adjusted_p <= 1
        else:
            assert row.adjusted_p is None and row.family is None


def test_an_undefined_layer_is_no_member_of_the_family() -> None:
    treated = planted_states("em_first", persona=0.7)
    h_PQLD = treated.h_PQLD.copy()
    h_PQLD[:, :, 1] = h_PQLD[:1, :, 1]
    rows = contrast(replace(treated, h_PQLD=h_PQLD))
    defined, undefined = (rows["contraction", "question_bootstrap", layer] for layer in LAYERS)
    assert defined.family == "max-T over 1 layer" and defined.adjusted_p is not None
    assert undefined.adjusted_p is None and "not in the family" in (undefined.note or "")


def test_one_question_gives_cosines_without_inference() -> None:
    single = [
        replace(s, questions=("q00",), h_PQLD=s.h_PQLD[:, :1]) for s in (planted_states("em_first", persona=0.5), BASE)
    ]
    rows = contrast(*single)
    row = rows["cosine_difference", "question_bootstrap", None]
    assert row.estimate is not None and row.p_value is None and row.ci_low is None
    assert rows["contraction", "question_bootstrap", None].estimate is None


def test_conditions_with_different_questions_are_refused() -> None:
    with pytest.raises(UserError) as raised:
        contrast(planted_states("em_first").without(["q03"]))
    assert codes(raised.value) == [("states.questions_differ", "states of em_first and base_first")]
    left_out = contrast(planted_states("em_first", persona=0.5).without(["q03"]), BASE.without(["q03"]))
    assert left_out["contraction", "question_jackknife_t", None].df == 10


def test_a_persona_without_states_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="nobody") as raised:
        contrast_of(planted_states("em_first"), BASE, ("near", "nobody"))
    assert codes(raised.value) == [("states.persona_missing", "states of em_first")]


@pytest.mark.parametrize("bystanders", [(), ("near", "near"), ("near", "source")])
def test_no_bystander_and_a_persona_named_twice_are_refused(bystanders: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as raised:
        contrast_of(planted_states("em_first"), BASE, bystanders)
    assert codes(raised.value) == [("panel.bystanders", "bystanders")]


@pytest.mark.parametrize("change", [{"resamples": 0}, {"level": 1.0}, {"level": 0.0}])
def test_resamples_and_levels_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UserError) as raised:
        options(**change)
    assert [problem.place for problem in raised.value.problems] == list(change)


def codes(error: UserError) -> list[tuple[str, str]]:
    return [(problem.code, problem.place) for problem in error.problems]


def test_states_with_the_wrong_shape_or_a_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        replace(BASE, questions=QUESTIONS[:-1])
    broken = BASE.h_PQLD.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(UserError) as raised:
        replace(BASE, h_PQLD=broken)
    assert codes(raised.value) == [("states.not_finite", "states of base_first")]
