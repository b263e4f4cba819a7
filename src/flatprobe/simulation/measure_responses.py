"""Which known causes move each geometric measure: the claims, and the measured responses.

Causes are planted one at a time (`planted_states`). Otherwise the two conditions differ only by their own noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatprobe.simulation.planted_states import Direction, planted_pair
from flatprobe.statistics.estimate import finite
from flatprobe.statistics.geometry.grams import pair_grams
from flatprobe.statistics.geometry.kernels import Kernels, QuestionWeights
from flatprobe.statistics.geometry.measures import MEASURES, NEEDS, PairKernels, PairProducts
from flatprobe.statistics.geometry.products import PersonaKernels, Products
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.values import measure_values

SIZES: Mapping[str, Any] = {"personas": 8, "questions": 20, "layers": 2, "hidden": 256, "noise": 3.0, "common": 5.0}
"""Sizes of the planted states. The noise-free cosine of two personas is 25/26; noise lowers the raw cosine."""


@dataclass(frozen=True)
class Cause:
    """One property of the treated condition that changes in steps."""

    name: str
    argument: str
    """The argument of `planted_pair` that changes."""
    doses: tuple[float, ...]
    """Its values, from no change to the largest."""
    unit: str
    """Unit of the doses."""
    direction: Direction = "across"
    """Direction of a translation."""

    def change(self, dose: float) -> dict[str, Any]:
        """Arguments of `planted_pair` for one dose."""
        return {"direction": self.direction, self.argument: dose}


_SIZES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
CAUSES: tuple[Cause, ...] = (
    Cause("contraction", "contraction", (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), "factor of distances"),
    Cause("translation, length kept", "translation", _SIZES, "size of the translation", "around"),
    Cause("translation across", "translation", _SIZES, "size of the translation"),
    Cause("translation along", "translation", _SIZES, "size of the translation", "along"),
    Cause("rotation", "rotation", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "share rotated"),
    Cause("scale", "scale", (1.0, 1.4, 1.8, 2.2, 2.6, 3.0), "factor of states"),
    Cause("less noise", "noise_treated", (3.0, 2.7, 2.4, 2.1, 1.8, 1.5), "noise"),
    Cause("more noise", "noise_treated", (3.0, 3.3, 3.6, 3.9, 4.2, 4.5), "noise"),
    Cause("fewer questions", "questions_treated", (20, 16, 12, 9, 7, 5), "questions"),
)
"""The first dose of each changes nothing."""

_LENGTHENS = {"translation across", "translation along"}
_NOISE = {"less noise", "more noise"}
MOVES: dict[str, frozenset[str]] = {
    name: frozenset(causes)
    for name, causes in {
        "cosine_difference": {"contraction", *_LENGTHENS, *_NOISE, "fewer questions"},
        "crossvalidated_cosine_difference": {"contraction", *_LENGTHENS},
        # A common factor moves all centroids along their mean.
        "translation_share": {*_LENGTHENS, "scale"},
        "cosine_difference_minus_translation": {"contraction", *_NOISE, "scale"},
        # Equal noise matters less on longer centroids, and more on centroids of fewer questions.
        "noise_share": {*_NOISE, *_LENGTHENS, "fewer questions"},
        # It drops dimensions of one basis, so even a rotation moves it.
        "trimmed_cosine_difference": {"contraction", "translation, length kept", *_LENGTHENS, *_NOISE, "rotation"},
        # Scaled variances follow a translation only through the norm that scales them.
        "contraction": {"contraction", *_LENGTHENS},
        "scatter_ratio": {"contraction", *_LENGTHENS},
        "noise_ratio": {*_NOISE, *_LENGTHENS},
        "contraction_minus_noise": {"contraction", *_NOISE},
        "unscaled_scatter_ratio": {"contraction", "scale"},
        "unscaled_noise_ratio": {*_NOISE, "scale"},
        "norm_ratio": {*_LENGTHENS, "scale"},
        "participation_ratio_difference": {"contraction", *_NOISE, "fewer questions"},
    }.items()
}
"""Measure to the causes that move it. The tests check that no other cause does."""


def response(treated: States, control: States) -> dict[str, float | None]:
    """Every measure of a planted pair, mean over layers; ratios as logs, so that no change is 0.

    If the questions differ, each condition's values are computed from its own questions, and a measure that needs the
    same questions in both is None. So is an undefined measure.
    """
    if treated.questions == control.questions:
        states = {"treated": treated, "control": control}
        grams = pair_grams(states, [("treated", "control")], control.personas[0], control.personas[1:])
        [by_measure] = measure_values(grams, resamples=0, seed=0)
        return {name: finite(values.estimate_L.mean()) for name, values in by_measure.items()}
    products = _products(treated), _products(control)
    kernels = PairKernels(products[0].kernels, products[1].kernels, None, None)
    pair = PairProducts(kernels, *products, products[1].weights)
    return {name: None if name in NEEDS else finite(measure(pair).mean()) for name, measure in MEASURES.items()}


def responses(cause: Cause, dose: float, draws: int, seed: int) -> dict[str, list[float]]:
    """Every measure's responses to one dose on `draws` planted pairs of `SIZES`; undefined ones are left out."""
    by_measure: dict[str, list[float]] = {name: [] for name in MEASURES}
    for draw in range(draws):
        pair = planted_pair(np.random.default_rng([seed, draw]), **SIZES, **cause.change(dose))
        for name, value in response(*pair).items():
            if value is not None:
                by_measure[name].append(value)
    return by_measure


def _products(states: States) -> Products:
    """One condition's products on all its questions, each with equal weight."""
    grams = np.stack([states.gram(layer) for layer in states.layers])
    kernels = PersonaKernels(Kernels.of_gram(grams)).collapsed()
    return Products(kernels, QuestionWeights.equal(len(states.questions)))
