from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_states import BYSTANDERS, KIND, planted_states

from flatprobe.statistics.geometry.massive import massive_activation_table, top_dimensions

POOL = ("source", *BYSTANDERS)


def test_a_planted_massive_dimension_is_found_with_its_share_and_ratio() -> None:
    states = planted_states("base_first")
    h_PQLD = states.h_PQLD.copy()
    h_PQLD[:, :, 1, 40] = -500.0
    table = massive_activation_table(replace(states, h_PQLD=h_PQLD), POOL, KIND)
    assert table.height == 2 * 3 and table["rank"].to_list() == [1, 2, 3, 1, 2, 3]
    first = table.row(3, named=True)
    absolute = np.abs(h_PQLD[:5, :, 1].astype(np.float64))
    assert (first["layer"], first["dimension"], first["mean_absolute"]) == (7, 40, 500.0)
    assert first["share_of_squared_norm"] == pytest.approx(60 * 500.0**2 / (absolute**2).sum())
    assert first["ratio_to_median"] == pytest.approx(500.0 / np.median(absolute))
    assert first["share_of_squared_norm"] > 0.99 > 0.3 > table.row(0, named=True)["share_of_squared_norm"]


def test_seeds_side_by_side_share_their_largest_dimensions() -> None:
    generator = np.random.default_rng(0)
    h_PQD = generator.normal(size=(2, 3, 20))
    h_PQD[..., 4] += 50.0  # dimension 4 of the first seed
    h_PQD[..., 17] -= 80.0  # dimension 7 of the second
    assert top_dimensions(h_PQD, seeds=2, count=2).tolist() == [7, 4, 17, 14]


def test_silent_states_have_neither_share_nor_ratio() -> None:
    states = planted_states("base_first")
    table = massive_activation_table(replace(states, h_PQLD=0 * states.h_PQLD), POOL, KIND)
    assert table["share_of_squared_norm"].null_count() == table["ratio_to_median"].null_count() == table.height
