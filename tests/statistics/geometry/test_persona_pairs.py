"""Distances and cosines of every pair of personas, against loops over questions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flatprobe.simulation.planted_states import planted_pair
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.statistics.geometry.tables import persona_pair_table

STATES = planted_pair(np.random.default_rng(2), personas=4, questions=5, layers=2, hidden=16, noise=0.7)[1]
POOL = STATES.personas[:3]


def table(states: States = STATES, pool: tuple[str, ...] = POOL) -> list[dict[str, object]]:
    return persona_pair_table(states, pool, StateKind("own", "response_mean")).to_dicts()


def test_every_pair_agrees_with_loops_over_different_questions() -> None:
    rows = table()
    assert len(rows) == 2 * 6
    for row in rows:
        h_PQD = STATES.layer(int(str(row["layer"])))
        one, other = (h_PQD[STATES.personas.index(str(row[key]))] for key in ("persona", "other"))
        pairs = list(itertools.permutations(range(5), 2))
        distance = np.mean([(one[q] - other[q]) @ (one[r] - other[r]) for q, r in pairs])
        norm = np.mean([np.sqrt(np.mean([h[q] @ h[r] for q, r in pairs])) for h in h_PQD[:3]])
        means = one.mean(0), other.mean(0)
        cosine = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
        assert row["squared_distance"] == pytest.approx(distance, rel=1e-9)
        assert row["relative_squared_distance"] == pytest.approx(distance / norm**2, rel=1e-9)
        assert row["cosine"] == pytest.approx(cosine, rel=1e-9)


def test_personas_without_a_difference_have_distances_on_both_sides_of_zero() -> None:
    same = planted_pair(
        np.random.default_rng(0), personas=8, questions=6, layers=1, hidden=64, spread=0.0, noise=2.0
    )[1]
    distances = np.array([row["squared_distance"] for row in table(same, same.personas)])
    assert (distances < 0).any() and (distances > 0).any()
    assert abs(distances.mean()) < distances.std()


def test_one_question_leaves_cosines_and_no_distance() -> None:
    single = STATES.without(STATES.questions[1:])
    for row in table(single):
        assert row["cosine"] is not None
        assert row["squared_distance"] is row["relative_squared_distance"] is None
