from __future__ import annotations

import numpy as np
import pytest
from planted_states import BYSTANDERS, LAYERS, planted_states

from flatprobe.statistics.geometry.contrasts import gram_contrast
from flatprobe.statistics.geometry.grams import PairGrams, pair_grams
from flatprobe.statistics.geometry.levels import LEVELS, measure_levels
from flatprobe.statistics.geometry.measures import RATIOS
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.tables import cosine_table, geometry_table

BASE = planted_states("base")
TREATED = planted_states("treated", persona=0.7, noise=1.2, shift=0.3, scale=1.5)


def grams(base: States = BASE, treated: States = TREATED) -> PairGrams:
    [pair] = pair_grams({"base": base, "treated": treated}, [("treated", "base")], "source", BYSTANDERS)
    return pair


@pytest.mark.parametrize("measure", LEVELS)
def test_the_two_levels_make_the_measure_in_every_layer_and_over_layers(measure: str) -> None:
    pair = grams()
    levels = measure_levels(pair)[measure]
    estimates = {
        row.layer: row.estimate
        for row in gram_contrast(pair, position="p", responses="own", resamples=2, seed=0, measures=[measure])
    }
    assert set(levels) == set(estimates) == {*LAYERS, None}
    for layer, (base, treated) in levels.items():
        assert base is not None and treated is not None
        made = treated / base if measure in RATIOS else treated - base
        assert made == pytest.approx(estimates[layer], rel=1e-9, abs=1e-12)


def test_levels_are_those_of_the_descriptive_tables() -> None:
    levels = measure_levels(grams())
    table = geometry_table(BASE, "source", BYSTANDERS, position="p", responses="own", seed=0, splits=2)
    cosines = cosine_table(TREATED, "source", position="p", responses="own")
    for row in table.iter_rows(named=True):
        assert levels["cosine_difference"][row["layer"]][0] == pytest.approx(row["mean_cosine"], rel=1e-12)
        assert levels["scatter_ratio"][row["layer"]][0] == pytest.approx(row["scatter"], rel=1e-9)
        assert levels["noise_ratio"][row["layer"]][0] == pytest.approx(row["noise"], rel=1e-9)
    for layer in LAYERS:
        rows = cosines.filter(layer=layer).filter(cosines.filter(layer=layer)["persona"].is_in(BYSTANDERS))
        mean = np.mean(rows["crossvalidated_cosine"].to_numpy())
        assert levels["crossvalidated_cosine_difference"][layer][1] == pytest.approx(mean, rel=1e-9)


def test_an_undefined_level_is_none_and_makes_the_level_over_layers_none() -> None:
    still = np.array(BASE.h_PQLD)
    still[:, :, 0] = still[:1, :, 0]  # one layer without any persona: no distance, no noise
    levels = measure_levels(grams(base=States("base", BASE.personas, BASE.questions, BASE.layers, still)))
    assert levels["participation_ratio_difference"][LAYERS[0]][0] is None
    assert levels["participation_ratio_difference"][None][0] is None
    assert levels["participation_ratio_difference"][LAYERS[1]][0] is not None
    assert levels["cosine_difference"][LAYERS[0]][0] == pytest.approx(1.0)


def test_only_the_levels_asked_for_are_made_so_that_partial_gram_matrices_do() -> None:
    states = {"base": BASE, "treated": TREATED}
    [pair] = pair_grams(states, [("treated", "base")], "source", BYSTANDERS, parts=())
    assert set(measure_levels(pair, ["cosine_difference", "contraction"])) == {"cosine_difference"}
