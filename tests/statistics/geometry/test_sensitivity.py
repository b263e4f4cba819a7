from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from planted_states import BYSTANDERS, KIND, LAYERS, QUESTIONS, contrast_of, options, planted_states

from flatprobe.errors import UserError
from flatprobe.statistics.geometry.contrasts import gram_contrasts
from flatprobe.statistics.geometry.grams import PairGrams, pair_grams
from flatprobe.statistics.geometry.sensitivity import geometry_leave_one_out, max_t_over_positions
from flatprobe.statistics.geometry.states import StateKind, States

TREATED = planted_states("em_first", persona=0.7, seed=6)
CONTROL = planted_states("base_first")
NAMED = {"resamples": 200, "seed": 2, "level": 0.95, "pool": "bystanders"}


def grams_of(treated: States = TREATED, control: States = CONTROL) -> PairGrams:
    states = {"treated": treated, "control": control}
    return pair_grams(states, [("treated", "control")], "source", BYSTANDERS)[0]


def estimate(treated: States, control: States, bystanders: tuple[str, ...], measure: str, layer: int | None) -> float:
    rows = contrast_of(treated, control, bystanders, resamples=2, measures=(measure,))
    value = next(row.estimate for row in rows if row.layer == layer)
    assert value is not None
    return value


@pytest.mark.parametrize("measure", ["cosine_difference", "scatter_ratio"])
def test_leaving_one_out_is_the_contrast_without_it(measure: str) -> None:
    table = geometry_leave_one_out(grams_of(), [measure])
    assert table.height == (len(BYSTANDERS) + len(QUESTIONS)) * (len(LAYERS) + 1)
    on_all = {layer: estimate(TREATED, CONTROL, BYSTANDERS, measure, layer) for layer in (*LAYERS, None)}
    for layer in (7, None):
        others = tuple(name for name in BYSTANDERS if name != "far")
        without_persona = estimate(TREATED, CONTROL, others, measure, layer)
        kept = (TREATED.without(["q03"]), CONTROL.without(["q03"]))
        without_question = estimate(*kept, BYSTANDERS, measure, layer)
        for kind, name, value in (("persona", "far", without_persona), ("question", "q03", without_question)):
            same_layer = pl.col("layer").is_null() if layer is None else pl.col("layer") == layer
            row = table.filter((pl.col("kind") == kind) & (pl.col("left_out") == name) & same_layer)
            assert row["estimate"].to_list() == [pytest.approx(value, abs=1e-9)]
            assert row["difference"].to_list() == [pytest.approx(value - on_all[layer], abs=1e-9)]


def test_an_undefined_measure_without_one_is_null() -> None:
    collapsed = replace(TREATED, h_PQLD=np.repeat(TREATED.h_PQLD[:1], 6, axis=0))
    table = geometry_leave_one_out(grams_of(collapsed), ["contraction"])
    assert table["estimate"].null_count() == table["difference"].null_count() == table.height > 0


def test_two_questions_cannot_both_be_left_out_of_a_crossvalidated_measure() -> None:
    table = geometry_leave_one_out(
        grams_of(*(states.without(QUESTIONS[2:]) for states in (TREATED, CONTROL))), ["contraction"]
    )
    without_question = table.filter(pl.col("kind") == "question")
    assert without_question.height == 6 and without_question["estimate"].null_count() == 6


def test_positions_are_adjusted_together_and_cost_more_than_layers_alone() -> None:
    weak = planted_states("em_first", persona=0.97, seed=5)
    weak = replace(weak, h_PQLD=weak.h_PQLD + planted_noise(weak, 0.2))
    grams = {KIND: grams_of(weak), StateKind("own", "response_mean"): grams_of(planted_states("em_first", noise=0.9))}
    rows = max_t_over_positions(grams, "crossvalidated_cosine_difference", **NAMED)
    assert [(row.position, row.layer) for row in rows] == [(kind.position, layer) for kind in grams for layer in LAYERS]
    assert {row.family for row in rows} == {"max-T over 4 layers at 2 positions"}
    alone = gram_contrasts([grams[KIND]], options(**NAMED, measures=("crossvalidated_cosine_difference",)))
    by_layer = [row for row in alone if row.estimator == "question_bootstrap" and row.layer is not None]
    for together, layers_only in zip(rows[:2], by_layer, strict=True):
        assert together.p_value == layers_only.p_value and together.ci_low == layers_only.ci_low
        assert together.adjusted_p is not None and layers_only.adjusted_p is not None
        assert together.adjusted_p >= layers_only.adjusted_p


def planted_noise(states: States, size: float) -> np.ndarray:
    return (size * np.random.default_rng(3).normal(size=states.h_PQLD.shape)).astype(np.float32)


def test_positions_of_different_contrasts_are_refused() -> None:
    other = grams_of(planted_states("benign_first", persona=0.7))
    kinds = {StateKind("own", "a"): grams_of(), StateKind("own", "b"): other}
    with pytest.raises(UserError) as raised:
        max_t_over_positions(kinds, "cosine_difference", **NAMED)
    assert [(problem.code, problem.place) for problem in raised.value.problems] == [("geometry.positions", "positions")]
