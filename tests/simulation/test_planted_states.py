from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flatprobe.simulation.planted_states import planted_pair

SIZES = {"personas": 6, "questions": 5, "layers": 2, "hidden": 400}


def parts(seed: int = 0, **change: Any) -> tuple[np.ndarray, np.ndarray]:
    """Treated and control states without noise, float64, (P, Q, L, D)."""
    treated, control = planted_pair(np.random.default_rng(seed), **SIZES, noise=0.0, **change)
    return treated.h_PQLD.astype(np.float64), control.h_PQLD.astype(np.float64)


def deviations(h_PQLD: np.ndarray) -> np.ndarray:
    return h_PQLD - h_PQLD.mean(axis=0)


def test_without_a_change_and_without_noise_the_two_conditions_are_equal() -> None:
    treated, control = parts()
    assert np.array_equal(treated, control)


def test_contraction_multiplies_deviations_from_the_personas_mean_only() -> None:
    treated, control = parts(contraction=0.25)
    assert deviations(treated) == pytest.approx(0.25 * deviations(control), abs=1e-5)
    assert treated.mean(axis=0) == pytest.approx(control.mean(axis=0), abs=1e-5)


def test_translation_adds_one_vector_per_layer_of_the_given_size() -> None:
    treated, control = parts(translation=2.0)
    moves = treated - control
    assert moves == pytest.approx(np.broadcast_to(moves[:1, :1], moves.shape), abs=1e-5)
    assert moves[0, 0].std() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("direction", ["along", "around"])
def test_a_translation_has_the_given_direction_and_length(direction: str) -> None:
    treated, control = parts(translation=2.0, direction=direction, spread=0.0, question=0.0)
    move_LD, centre_LD = (treated - control)[0, 0], control[0, 0]
    assert np.linalg.norm(move_LD, axis=1) == pytest.approx(2.0 * 400**0.5, rel=1e-4)
    lengths = [np.linalg.norm(h_PQLD[0, 0], axis=1) for h_PQLD in (treated, control)]
    grown = 2.0 * 400**0.5 if direction == "along" else 0.0
    assert lengths[0] - lengths[1] == pytest.approx(grown, abs=1e-2)
    if direction == "along":
        cosines = (move_LD * centre_LD).sum(axis=1) / lengths[1] / (2.0 * 400**0.5)
        assert cosines == pytest.approx(1, abs=1e-5)


def test_a_translation_around_the_sphere_is_at_most_its_diameter() -> None:
    with pytest.raises(ValueError, match="sphere"):
        parts(translation=7.0, direction="around")


def test_a_partial_rotation_leaves_the_other_dimensions_unchanged() -> None:
    treated, control = parts(rotation=0.25)
    assert np.array_equal(treated[..., 100:], control[..., 100:])
    assert np.abs(treated - control)[..., :100].mean() > 1
    assert (treated**2).sum() == pytest.approx((control**2).sum(), rel=1e-5)


def test_a_treated_condition_with_fewer_questions_has_the_first_ones() -> None:
    few, control = planted_pair(np.random.default_rng(1), **SIZES, questions_treated=2)
    every, same = planted_pair(np.random.default_rng(1), **SIZES)
    assert few.questions == control.questions[:2] and np.array_equal(control.h_PQLD, same.h_PQLD)
    assert np.array_equal(few.h_PQLD, every.h_PQLD[:, :2])


def test_rotation_keeps_every_inner_product_and_moves_every_state() -> None:
    treated, control = (h_PQLD.reshape(-1, 2, 400) for h_PQLD in parts(rotation=1.0))
    for layer in range(2):
        gram = control[:, layer] @ control[:, layer].T
        assert treated[:, layer] @ treated[:, layer].T == pytest.approx(gram, rel=1e-4, abs=1e-2)
    assert np.abs(treated - control).mean() > 1


def test_jitter_redraws_deviations_and_keeps_their_size() -> None:
    treated, control = parts(jitter=0.6)
    moved, still = deviations(treated), deviations(control)
    assert (moved * still).sum() / (still**2).sum() == pytest.approx(0.8, abs=0.05)
    assert (moved**2).sum() == pytest.approx((still**2).sum(), rel=0.08)
    assert treated.mean(axis=0) == pytest.approx(control.mean(axis=0), abs=1e-5)


def test_noise_has_the_given_sizes_and_is_drawn_for_each_condition() -> None:
    generator = np.random.default_rng(1)
    treated, control = planted_pair(
        generator, **SIZES, common=0.0, spread=0.0, question=0.0, noise=6.0, noise_treated=4.0
    )
    assert control.h_PQLD.std() == pytest.approx(6, rel=0.02)
    assert treated.h_PQLD.std() == pytest.approx(4, rel=0.02)
    assert abs(np.corrcoef(treated.h_PQLD.ravel(), control.h_PQLD.ravel())[0, 1]) < 0.03


def test_the_source_is_first_and_equal_generators_give_equal_states() -> None:
    one, other = (planted_pair(np.random.default_rng(4), **SIZES)[0] for _ in range(2))
    assert one.personas[:2] == ("source", "bystander_1") and one.layers == (0, 1)
    assert np.array_equal(one.h_PQLD, other.h_PQLD)


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": 1.5},
        {"noise": -1.0},
        {"personas": 0},
        {"translation": -1.0},
        {"rotation": 1.1},
        {"questions_treated": 6},
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="planted states need"):
        planted_pair(np.random.default_rng(0), **{**SIZES, **wrong})
