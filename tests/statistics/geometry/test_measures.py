"""Measures from Gram matrices against explicit loops, and what noise and the number of questions do to them."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_oracle import oracle
from planted_states import contrast_of

from flatprobe.errors import UserError
from flatprobe.simulation.planted_states import planted_pair
from flatprobe.statistics.bootstrap import draw_weights
from flatprobe.statistics.geometry.grams import pair_grams
from flatprobe.statistics.geometry.kernels import QuestionWeights
from flatprobe.statistics.geometry.measures import MEASURES
from flatprobe.statistics.geometry.products import Products
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.values import measure_values

TREATED, CONTROL = planted_pair(
    np.random.default_rng(3), personas=5, questions=7, layers=2, hidden=32, contraction=0.8, translation=1.0,
    noise=1.5, noise_treated=1.0, jitter=0.3, question=0.5,
)  # fmt: skip
CASE = {"treated": TREATED, "control": CONTROL}


def values_of(states: dict[str, States], resamples: int = 0, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    personas = states["control"].personas
    [by_measure] = measure_values(
        pair_grams(states, [("treated", "control")], personas[0], personas[1:]), resamples=resamples, seed=seed
    )
    return {name: vars(values) for name, values in by_measure.items()}


def expected(drawn: list[int], kept: tuple[int, ...] = (0, 1, 2, 3, 4)) -> dict[str, list[float]]:
    """The oracle at both layers, as a list per measure."""
    layers = [
        oracle(
            TREATED.layer(layer)[list(kept)], CONTROL.layer(layer)[list(kept)], drawn,
        )
        for layer in (0, 1)
    ]  # fmt: skip
    return {name: [layer[name] for layer in layers] for name in MEASURES}


@pytest.fixture(scope="module")
def values() -> dict[str, dict[str, np.ndarray]]:
    return values_of(CASE, resamples=4, seed=11)


def test_every_measure_agrees_with_explicit_loops(values: dict[str, dict[str, np.ndarray]]) -> None:
    by_loops = expected(list(range(7)))
    for name in MEASURES:
        assert values[name]["estimate_L"] == pytest.approx(by_loops[name], abs=1e-9), name


def test_every_measure_agrees_with_explicit_loops_on_resamples(values: dict[str, dict[str, np.ndarray]]) -> None:
    for index, weights in enumerate(draw_weights(7, 4, np.random.default_rng(11))):
        by_loops = expected(np.repeat(np.arange(7), weights.astype(int)).tolist())
        for name in MEASURES:
            assert values[name]["draws_LR"][:, index] == pytest.approx(by_loops[name], abs=1e-9), name


def test_leaving_a_question_out_is_measuring_without_it(values: dict[str, dict[str, np.ndarray]]) -> None:
    by_loops = expected([0, 1, 2, 4, 5, 6])
    for name in MEASURES:
        assert values[name]["without_question_LQ"][:, 3] == pytest.approx(by_loops[name], abs=1e-9), name


def test_leaving_a_persona_out_is_measuring_without_it(values: dict[str, dict[str, np.ndarray]]) -> None:
    by_loops = expected(list(range(7)), kept=(0, 1, 3, 4))
    for name in sorted(set(MEASURES) - {"trimmed_cosine_difference"}):
        assert values[name]["without_persona_LN"][:, 1] == pytest.approx(by_loops[name], abs=1e-9), name
    assert values["trimmed_cosine_difference"]["without_persona_LN"].shape == (2, 4)


def test_noise_is_the_interaction_mean_square_of_a_two_way_table() -> None:
    h_PQD = CONTROL.layer(0)
    residual = h_PQD - h_PQD.mean(0) - h_PQD.mean(1, keepdims=True) + h_PQD.mean((0, 1))
    mean_square = (residual**2).sum() / (4 * 6)
    grams = pair_grams(CASE, [("treated", "control")], "source", CONTROL.personas[1:])[0]
    products = Products(grams.control.kernels, QuestionWeights.of(np.ones((1, 7))))
    assert products.noise[0, 0] == pytest.approx(mean_square, rel=1e-10)


def test_an_unknown_measure_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="flatness") as raised:
        measure_values(
            pair_grams(CASE, [("treated", "control")], "source", CONTROL.personas[1:]),
            resamples=0,
            seed=0,
            measures=["flatness"],
        )
    assert [(problem.code, problem.place) for problem in raised.value.problems] == [("geometry.measure", "measures")]


def test_less_noise_at_equal_means_alone_raises_the_raw_cosine_by_seven_hundredths() -> None:
    treated, control = planted_pair(
        np.random.default_rng(0), personas=8, questions=20, layers=4, hidden=512, noise=6.0, noise_treated=4.0
    )
    rows = {
        row.quantity: row
        for row in contrast_of(treated, control, control.personas[1:], resamples=500)
        if row.layer is None and row.estimator == "question_bootstrap"
    }
    raw, unbiased = rows["cosine_difference"], rows["crossvalidated_cosine_difference"]
    assert raw.estimate == pytest.approx(0.07, abs=0.01) and raw.outside_own_interval is True
    assert unbiased.estimate == pytest.approx(0, abs=0.01) and unbiased.outside_own_interval is False
    assert rows["scatter_ratio"].estimate == pytest.approx(1, abs=0.1)
    assert rows["noise_share"].estimate == pytest.approx(raw.estimate, abs=0.01)


def test_the_number_of_questions_moves_the_level_of_the_raw_cosine_only() -> None:
    few, many = (mean_products(questions) for questions in (5, 40))
    assert many["cosine"] - few["cosine"] > 0.04
    assert many["crossvalidated_cosine"] == pytest.approx(few["crossvalidated_cosine"], abs=0.005)
    for name in ("scatter", "noise", "norm"):
        assert many[name] == pytest.approx(few[name], rel=0.1), name


def mean_products(questions: int) -> dict[str, float]:
    names = ("cosine", "crossvalidated_cosine", "scatter", "noise", "norm")
    rows = []
    for seed in range(20):
        pair = planted_pair(
            np.random.default_rng(seed), personas=8, questions=questions, layers=2, hidden=256, noise=3.0, common=5.0
        )
        states = dict(zip(("treated", "control"), pair, strict=True))
        grams = pair_grams(states, [("treated", "control")], "source", pair[1].personas[1:])[0]
        products = Products(grams.control.kernels, QuestionWeights.of(np.ones((1, questions))))
        rows.append([getattr(products, name).mean() for name in names])
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
