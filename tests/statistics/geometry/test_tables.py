from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from geometry_oracle import mean_cosine
from planted_states import BYSTANDERS, KIND, PERSONAS, planted_states

from flatprobe.simulation.planted_states import planted_pair
from flatprobe.statistics.geometry.inner_products import persona_gram
from flatprobe.statistics.geometry.reliability import separability, split_half_reliability
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.tables import cosine_table, geometry_table, headroom, persona_pair_table, reliability


def test_distinct_personas_are_separable_and_reliable_and_noise_alone_is_neither() -> None:
    clear = geometry_table(planted_states("a", noise=0.1), "source", BYSTANDERS, KIND, seed=1, splits=100)
    assert clear["separability"].to_list() == [1.0, 1.0]
    assert min(clear["reliability"]) > 0.99
    noise = geometry_table(planted_states("a", persona=0.0, noise=3.0), "source", BYSTANDERS, KIND, seed=1, splits=100)
    assert max(noise["separability"]) < 0.4 and max(noise["reliability"]) < 0.4
    assert set(clear["chance"]) == {1 / len(PERSONAS)}


def test_separability_agrees_with_a_loop_over_left_out_questions() -> None:
    states = planted_states("a", noise=3.0)
    h_PQD = states.layer(3)
    x_PQD = h_PQD - h_PQD.mean(axis=0)
    hits = 0
    for q in range(12):
        centroids = np.delete(x_PQD, q, axis=1).mean(axis=1)
        for p in range(6):
            hits += int(np.argmin(((x_PQD[p, q] - centroids) ** 2).sum(axis=1)) == p)
    assert 0.2 < hits / 72 < 1 and separability(states.gram(3)) == pytest.approx(hits / 72)


def test_indistinguishable_personas_give_chance_and_no_reliability() -> None:
    states = planted_states("a")
    gram = persona_gram(np.repeat(states.layer(3)[:1], 6, axis=0))
    assert separability(gram) == pytest.approx(1 / 6)
    assert split_half_reliability(gram, 50, np.random.default_rng(1)) is None


def test_reliability_agrees_with_explicit_halves_stepped_up() -> None:
    states = planted_states("a", noise=2.0)
    h_PQD = states.layer(3)
    order = np.argsort(np.random.default_rng(9).random((50, 12)), axis=1)
    values = []
    for row in order:
        halves = [h_PQD[:, part].mean(axis=1) for part in (row < 6, row >= 6)]
        first, second = (half - half.mean(axis=0) for half in halves)
        values.append((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))
    stepped = 2 * np.mean(values) / (1 + np.mean(values))
    assert split_half_reliability(states.gram(3), 50, np.random.default_rng(9)) == pytest.approx(stepped)


def test_scatter_and_noise_are_unbiased() -> None:
    quiet = planted_states("a", noise=0.0)
    planted = quiet.layer(3).mean(axis=1)
    truth = np.mean([((planted[0] - planted[PERSONAS.index(name)]) ** 2).sum() for name in BYSTANDERS])
    tables = [geometry_table(redrawn(quiet, seed), "source", BYSTANDERS, KIND, seed=1, splits=1) for seed in range(60)]
    assert np.mean([table["scatter"][0] for table in tables]) == pytest.approx(truth, rel=0.05)
    assert np.mean([table["noise"][0] for table in tables]) == pytest.approx(4 * 64, rel=0.03)


def redrawn(states: States, seed: int) -> States:
    """The states with fresh noise of SD 2 in each of 64 dimensions."""
    noise = 2 * np.random.default_rng(seed).normal(size=states.h_PQLD.shape)
    return replace(states, h_PQLD=(states.h_PQLD + noise).astype(np.float32))


def test_headroom_is_one_minus_the_mean_cosine_and_needs_every_layer() -> None:
    table = geometry_table(planted_states("a"), "source", BYSTANDERS, KIND, seed=1, splits=100)
    assert headroom(table) == pytest.approx(1 - np.mean(table["mean_cosine"].to_list()))
    assert reliability(table) == pytest.approx(np.mean(table["reliability"].to_list()))
    assert headroom(table.with_columns(headroom=None)) is None


def test_participation_ratio_counts_the_directions_in_which_personas_differ() -> None:
    states = planted_states("a", noise=0.05)
    along = np.linspace(-1, 1, 6)[:, None, None, None] * np.ones((1, 12, 2, 64)) + 5
    line = replace(states, h_PQLD=along.astype(np.float32))
    assert geometry_table(line, "source", BYSTANDERS, KIND, seed=1, splits=100)["participation_ratio"][
        0
    ] == pytest.approx(1)
    assert geometry_table(states, "source", BYSTANDERS, KIND, seed=1, splits=100)["participation_ratio"][0] > 3.5


def test_the_centred_cosine_is_that_of_centroids_minus_their_mean() -> None:
    states = planted_states("a")
    table = geometry_table(states, "source", BYSTANDERS, KIND, seed=1, splits=1)
    centroids_PD = states.layer(3, ("source", *BYSTANDERS)).mean(axis=1)
    centred_PD = centroids_PD - centroids_PD.mean(axis=0)
    assert table["centred_cosine"][0] == pytest.approx(mean_cosine(centred_PD), abs=1e-9)


def test_cosine_table_has_every_other_persona_at_every_layer() -> None:
    states = planted_states("a")
    table = cosine_table(states, "source", KIND)
    assert table.height == 2 * 5 and "source" not in table["persona"].to_list()
    h_PQD = states.layer(3)
    unit = h_PQD / np.linalg.norm(h_PQD, axis=2, keepdims=True)
    by_question = (unit[0] * unit[1]).sum(axis=1)
    row = table.row(0, named=True)
    assert row["per_question_mean"] == pytest.approx(by_question.mean())
    assert row["per_question_sd"] == pytest.approx(by_question.std(ddof=1))
    assert row["crossvalidated_cosine"] > row["cosine"] > row["per_question_mean"]


FOUR = planted_pair(np.random.default_rng(2), personas=4, questions=5, layers=2, hidden=16, noise=0.7)[1]
FOUR_POOL = FOUR.personas[:3]


def pair_rows(states: States = FOUR, pool: tuple[str, ...] = FOUR_POOL) -> list[dict[str, object]]:
    return persona_pair_table(states, pool, KIND).to_dicts()


def test_every_pair_agrees_with_loops_over_different_questions() -> None:
    rows = pair_rows()
    assert len(rows) == 2 * 6
    for row in rows:
        h_PQD = FOUR.layer(int(str(row["layer"])))
        one, other = (h_PQD[FOUR.personas.index(str(row[key]))] for key in ("persona", "other"))
        pairs = list(itertools.permutations(range(5), 2))
        distance = np.mean([(one[q] - other[q]) @ (one[r] - other[r]) for q, r in pairs])
        norm = np.mean([np.sqrt(np.mean([h[q] @ h[r] for q, r in pairs])) for h in h_PQD[:3]])
        means = one.mean(0), other.mean(0)
        cosine = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
        assert row["squared_distance"] == pytest.approx(distance, rel=1e-9)
        assert row["relative_squared_distance"] == pytest.approx(distance / norm**2, rel=1e-9)
        assert row["cosine"] == pytest.approx(cosine, rel=1e-9)


def test_personas_without_a_difference_have_distances_on_both_sides_of_zero() -> None:
    same = planted_pair(np.random.default_rng(0), personas=8, questions=6, layers=1, hidden=64, spread=0.0, noise=2.0)[
        1
    ]
    distances = np.array([row["squared_distance"] for row in pair_rows(same, same.personas)])
    assert (distances < 0).any() and (distances > 0).any()
    assert abs(distances.mean()) < distances.std()


def test_one_question_leaves_cosines_and_no_distance() -> None:
    single = FOUR.without(FOUR.questions[1:])
    for row in pair_rows(single):
        assert row["cosine"] is not None
        assert row["squared_distance"] is row["relative_squared_distance"] is None
