from __future__ import annotations

import numpy as np
import pytest
from planted_states import BYSTANDERS, KIND, LAYERS, options, planted_states

from flatprobe.statistics.geometry.condition_values import CONDITION_VALUES, condition_values
from flatprobe.statistics.geometry.contrasts import gram_contrasts
from flatprobe.statistics.geometry.grams import PairGrams, pair_grams
from flatprobe.statistics.geometry.measures import RATIOS
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.tables import cosine_table, geometry_table

BASE = planted_states("base")
TREATED = planted_states("treated", persona=0.7, noise=1.2, translation=0.3, scale=1.5)


def grams(base: States = BASE, treated: States = TREATED) -> PairGrams:
    [pair] = pair_grams({"base": base, "treated": treated}, [("treated", "base")], "source", BYSTANDERS)
    return pair


@pytest.mark.parametrize("measure", CONDITION_VALUES)
def test_the_two_values_give_the_measure_in_every_layer_and_over_layers(measure: str) -> None:
    pair = grams()
    values = condition_values(pair)[measure]
    estimates = {row.layer: row.estimate for row in gram_contrasts([pair], options(resamples=2, measures=(measure,)))}
    assert set(values) == set(estimates) == {*LAYERS, None}
    for layer, (base, treated) in values.items():
        assert base is not None and treated is not None
        compared = treated / base if measure in RATIOS else treated - base
        assert compared == pytest.approx(estimates[layer], rel=1e-9, abs=1e-12)


def test_the_values_are_those_of_the_descriptive_tables() -> None:
    values = condition_values(grams())
    table = geometry_table(BASE, "source", BYSTANDERS, KIND, seed=0, splits=2)
    cosines = cosine_table(TREATED, "source", KIND)
    for row in table.iter_rows(named=True):
        assert values["cosine_difference"][row["layer"]][0] == pytest.approx(row["mean_cosine"], rel=1e-12)
        assert values["scatter_ratio"][row["layer"]][0] == pytest.approx(row["scatter"], rel=1e-9)
        assert values["noise_ratio"][row["layer"]][0] == pytest.approx(row["noise"], rel=1e-9)
    for layer in LAYERS:
        rows = cosines.filter(layer=layer).filter(cosines.filter(layer=layer)["persona"].is_in(BYSTANDERS))
        mean = np.mean(rows["crossvalidated_cosine"].to_numpy())
        assert values["crossvalidated_cosine_difference"][layer][1] == pytest.approx(mean, rel=1e-9)


def test_an_undefined_value_is_none_and_so_is_the_one_over_layers() -> None:
    still = np.array(BASE.h_PQLD)
    still[:, :, 0] = still[:1, :, 0]  # one layer without any persona: no distance, no noise
    values = condition_values(grams(base=States("base", BASE.personas, BASE.questions, BASE.layers, still)))
    assert values["participation_ratio_difference"][LAYERS[0]][0] is None
    assert values["participation_ratio_difference"][None][0] is None
    assert values["participation_ratio_difference"][LAYERS[1]][0] is not None
    assert values["cosine_difference"][LAYERS[0]][0] == pytest.approx(1.0)


def test_values_of_some_measures_need_only_their_parts_of_the_gram_matrices() -> None:
    states = {"base": BASE, "treated": TREATED}
    [pair] = pair_grams(states, [("treated", "base")], "source", BYSTANDERS, parts=())
    assert set(condition_values(pair, ["cosine_difference", "contraction"])) == {"cosine_difference"}
