from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_states import BYSTANDERS, PERSONAS, contrast_of, options, planted_states
from safetensors.numpy import save_file

from flatprobe.errors import UserError
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.contrasts import geometry_contrasts, gram_contrasts
from flatprobe.statistics.geometry.grams import PairGrams, pair_grams
from flatprobe.statistics.geometry.states import States

STATES = {
    "em_first": planted_states("em_first", persona=0.7, translation=0.2, seed=6),
    "base_first": planted_states("base_first"),
    "benign_first": planted_states("benign_first", noise=0.5, seed=7),
}
PAIR = ("em_first", "base_first")
OPTIONS = options(seed=2)


def grams_of(states: dict[str, States]) -> PairGrams:
    return pair_grams(states, [PAIR], "source", BYSTANDERS)[0]


def test_stored_gram_matrices_give_the_same_estimates_as_the_states(tmp_path: Path) -> None:
    grams_of(STATES).save(tmp_path / "pair.safetensors")
    stored = PairGrams.load(tmp_path / "pair.safetensors")
    direct = contrast_of(STATES["em_first"], STATES["base_first"], seed=2)
    assert gram_contrasts([stored], OPTIONS) == direct
    assert stored.control.personas == ("source", *BYSTANDERS) and stored.control.layers == (3, 7)


def test_another_file_is_refused(tmp_path: Path) -> None:
    save_file({"treated": np.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not even tensors")
    for name in ("other", "text"):
        path = tmp_path / f"{name}.safetensors"
        with pytest.raises(UserError) as raised:
            PairGrams.load(path)
        assert [(problem.code, problem.place) for problem in raised.value.problems] == [("grams.file", str(path))]


def test_contrasts_estimated_together_equal_those_estimated_one_by_one() -> None:
    pairs = [PAIR, ("em_first", "benign_first"), ("benign_first", "base_first")]
    together = geometry_contrasts(STATES, pairs, "source", BYSTANDERS, OPTIONS)
    alone = [row for treated, control in pairs for row in contrast_of(STATES[treated], STATES[control], seed=2)]
    assert together == alone


def test_a_condition_s_gram_matrix_is_computed_once_for_all_its_pairs() -> None:
    first, second = pair_grams(STATES, [PAIR, ("em_first", "benign_first")], "source", BYSTANDERS)
    assert first.treated is second.treated


def test_states_of_another_hidden_size_with_equal_inner_products_give_equal_estimates() -> None:
    padded = {
        name: replace(states, h_PQLD=np.concatenate([states.h_PQLD, np.zeros_like(states.h_PQLD)], axis=3))
        for name, states in STATES.items()
    }
    for wide, narrow in zip(
        gram_contrasts([grams_of(padded)], OPTIONS), gram_contrasts([grams_of(STATES)], OPTIONS), strict=True
    ):
        assert_same_numbers(wide, narrow)


def assert_same_numbers(one: Estimate, other: Estimate) -> None:
    for field in ("estimate", "standard_error", "ci_low", "ci_high"):
        assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-7, abs=1e-10), one.quantity


def test_many_resamples_are_drawn_in_blocks_that_do_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gram_contrasts([grams_of(STATES)], OPTIONS)
    monkeypatch.setattr("flatprobe.statistics.geometry.values.BLOCK_VALUES", 500)
    for small, large in zip(gram_contrasts([grams_of(STATES)], OPTIONS), whole, strict=True):
        assert_same_numbers(small, large)


def test_the_trimmed_cosine_is_free_of_a_massive_dimension_that_the_control_has() -> None:
    rows = {}
    for size in (0.0, 400.0):
        states = dict(STATES)
        for name, factor in (("em_first", 1.0), ("base_first", 0.8)):
            h_PQLD = STATES[name].h_PQLD.copy()
            h_PQLD[..., 9:12] = factor * size
            states[name] = replace(STATES[name], h_PQLD=h_PQLD)
        estimates = gram_contrasts(
            [grams_of(states)], replace(OPTIONS, measures=("cosine_difference", "trimmed_cosine_difference"))
        )
        rows[size] = {row.quantity: row.estimate for row in estimates if row.layer is None}
    without = contrast_of(
        *(replace(STATES[name], h_PQLD=np.delete(STATES[name].h_PQLD, [9, 10, 11], axis=3)) for name in PAIR),
        measures=("cosine_difference",),
    )
    exact = next(row.estimate for row in without if row.layer is None)
    assert rows[400.0]["trimmed_cosine_difference"] == pytest.approx(exact, abs=1e-7)
    assert rows[400.0]["cosine_difference"] == pytest.approx(0, abs=1e-3) and abs(exact or 0) > 5e-3


def test_a_hidden_size_of_three_leaves_no_dimension_untrimmed() -> None:
    tiny = {name: replace(states, h_PQLD=states.h_PQLD[..., :3]) for name, states in STATES.items()}
    trimmed = replace(OPTIONS, measures=("trimmed_cosine_difference",))
    [row, *_] = gram_contrasts([grams_of(tiny)], trimmed)
    assert row.estimate is None and "not positive" in (row.note or "")


@pytest.mark.parametrize(("pairs", "named"), [([("em_first", "nobody")], "nobody"), ([], "any pair")])
def test_pairs_without_states_are_refused_by_name(pairs: list[tuple[str, str]], named: str) -> None:
    with pytest.raises(UserError, match=named) as raised:
        pair_grams(STATES, pairs, "source", PERSONAS[1:])
    assert [(problem.code, problem.place) for problem in raised.value.problems] == [
        ("states.condition_missing", "states")
    ]


def test_seeds_that_do_not_divide_the_hidden_axis_are_refused() -> None:
    with pytest.raises(ValueError, match="does not hold 3 seeds"):
        replace(STATES["em_first"], seeds=3)


def test_a_measure_that_reads_only_the_conditions_needs_no_other_part(tmp_path: Path) -> None:
    [lean] = pair_grams(STATES, [PAIR], "source", BYSTANDERS, parts=())
    lean.save(tmp_path / "lean.safetensors")
    for grams in (lean, PairGrams.load(tmp_path / "lean.safetensors")):
        assert grams.onto_move_LPQPQ is None and grams.trimmed_treated_LPQPQ is None
        without_parts = replace(OPTIONS, measures=("cosine_difference", "contraction"))
        assert gram_contrasts([grams], without_parts) == gram_contrasts([grams_of(STATES)], without_parts)
        with pytest.raises(
            UserError, match=r"translation_share \(moves\), trimmed_cosine_difference \(trimmed\)"
        ) as raised:
            gram_contrasts([grams], replace(OPTIONS, measures=("translation_share", "trimmed_cosine_difference")))
        assert [problem.code for problem in raised.value.problems] == ["grams.part_missing"]
