"""The claims of the docs about what moves each measure, tested on states with known causes."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from flatprobe.simulation.measure_responses import CAUSES, MOVES, SIZES, Cause, response, responses
from flatprobe.simulation.planted_states import planted_pair
from flatprobe.statistics.geometry.measures import MEASURES, NEEDS, RATIOS

LOGS = {*RATIOS, "contraction", "contraction_minus_noise"}
BY_NAME = {cause.name: cause for cause in CAUSES}


@functools.cache
def mean_responses(cause: Cause, largest: bool = True) -> dict[str, float | None]:
    """Mean of every measure over planted pairs, at noise SD 3 and a noise-free cosine of 25/26."""
    by_measure = responses(cause, cause.doses[-1 if largest else 0], draws=8, seed=0)
    return {name: float(np.mean(values)) if values else None for name, values in by_measure.items()}


def bounds(measure: str) -> tuple[float, float]:
    """The smallest effect of a cause that moves the measure, and the largest of one that does not."""
    if measure == "participation_ratio_difference":
        return 0.12, 0.05
    return (0.2, 0.06) if measure in LOGS else (0.003, 0.0025)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_each_measure_moves_under_its_causes_and_under_no_others(cause: Cause) -> None:
    for measure, effect in mean_responses(cause).items():
        moved, stayed = bounds(measure)
        if effect is None:
            assert cause.name == "fewer questions" and measure in NEEDS
        elif cause.name in MOVES[measure]:
            assert abs(effect) > moved, (measure, effect)
        else:
            assert abs(effect) < stayed, (measure, effect)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_the_first_dose_of_a_cause_changes_nothing(cause: Cause) -> None:
    change = cause.change(cause.doses[0])
    ours, plain = (planted_pair(np.random.default_rng(3), **SIZES, **more)[0].h_PQLD for more in (change, {}))
    assert np.array_equal(ours, plain)


def test_raw_cosine_rises_under_a_pure_translation_and_under_less_noise_while_distances_stay() -> None:
    for name in ("translation across", "translation along", "less noise"):
        effects = mean_responses(BY_NAME[name])
        assert effects["cosine_difference"] is not None and effects["cosine_difference"] > 0.01
        assert effects["unscaled_scatter_ratio"] == pytest.approx(0, abs=0.06)


def test_effects_have_the_sizes_that_were_planted() -> None:
    contracted, translated, quiet, scaled = (
        mean_responses(BY_NAME[name]) for name in ("contraction", "translation across", "less noise", "scale")
    )
    assert contracted["unscaled_scatter_ratio"] == pytest.approx(np.log(0.25), abs=0.05)
    assert contracted["crossvalidated_cosine_difference"] == pytest.approx(25 / 25.25 - 25 / 26, abs=0.003)
    assert quiet["unscaled_noise_ratio"] == pytest.approx(np.log(0.25), abs=0.02)
    assert translated["translation_share"] == pytest.approx(translated["cosine_difference"], rel=0.1)
    assert translated["norm_ratio"] == pytest.approx(np.log(51 / 26) / 2, abs=0.03)
    assert scaled["norm_ratio"] == pytest.approx(np.log(3), abs=0.01)
    for effects in (contracted, translated, quiet, scaled):
        assert all(effects[name] is not None for name in MEASURES)
        norm, scatter, unscaled = (
            effects[name] or 0.0 for name in ("norm_ratio", "scatter_ratio", "unscaled_scatter_ratio")
        )
        assert scatter == pytest.approx(unscaled - 2 * norm, abs=1e-9)
        assert effects["contraction"] == pytest.approx(-scatter, abs=1e-12)


def test_a_translation_along_the_states_counts_as_contraction_by_twice_the_log_of_the_norm_ratio() -> None:
    effects = mean_responses(BY_NAME["translation along"])
    assert effects["norm_ratio"] == pytest.approx(np.log((10**2 + 1) / (5**2 + 1)) / 2, abs=0.03)
    assert effects["contraction"] == pytest.approx(2 * (effects["norm_ratio"] or 0.0), abs=0.03)


def test_the_same_states_on_fewer_questions_differ_as_the_bias_of_the_raw_cosine_says() -> None:
    """A centroid of q questions is longer by noise^2 / q: S falls from 25 / (26 + 9/20) to 25 / (26 + 9/5)."""
    effects = mean_responses(BY_NAME["fewer questions"])
    question = 1.0  # the question effect is shared by all personas, and lengthens their common part alike
    expected = (25 + question / 5) / (26 + (question + 9) / 5) - (25 + question / 20) / (26 + (question + 9) / 20)
    assert effects["cosine_difference"] == pytest.approx(expected, abs=0.004)
    assert effects["noise_share"] == pytest.approx(expected, abs=0.004)


def test_equal_numbers_of_questions_give_the_measures_of_every_study() -> None:
    """The way for different numbers of questions, on equal ones: the same numbers where it has any."""
    treated, control = planted_pair(np.random.default_rng(5), **SIZES, contraction=0.7)
    renamed = type(treated)(
        "treated", treated.personas, tuple(f"other_{name}" for name in treated.questions), treated.layers,
        treated.h_PQLD,
    )  # fmt: skip
    usual, apart = response(treated, control), response(renamed, control)
    for name in MEASURES:
        if name in NEEDS:
            assert apart[name] is None
        else:
            assert apart[name] == pytest.approx(usual[name], abs=1e-9), name
