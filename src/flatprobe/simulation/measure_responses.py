"""What each geometric measure moves under: known causes, claims about them, and the measured response.

The causes are planted (`planted`), one at a time; nothing else differs between the two conditions but fresh noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatprobe.simulation.planted_states import Direction, planted_pair
from flatprobe.statistics.geometry.grams import pair_grams
from flatprobe.statistics.geometry.kernels import Kernels, QuestionWeights
from flatprobe.statistics.geometry.measures import MEASURES, NEEDS, PairPanel, PairProducts
from flatprobe.statistics.geometry.products import Panel, Products
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.values import measure_values

SIZES: Mapping[str, Any] = {
    "personas": 8, "questions": 20, "layers": 2, "hidden": 256, "noise": 3.0, "common": 5.0,
}  # fmt: skip
"""Of the planted states: the noise-free cosine of two personas is 25/26, and noise lowers the raw one."""


@dataclass(frozen=True)
class Cause:
    """One thing that is changed, in steps."""

    name: str
    argument: str
    """Of `planted_pair`."""
    doses: tuple[float, ...]
    """Its values, from no change to the largest."""
    unit: str
    """What the values are."""
    direction: Direction = "across"
    """Of a shift."""

    def change(self, dose: float) -> dict[str, Any]:
        """Arguments of `planted_pair`."""
        return {"direction": self.direction, self.argument: dose}


CAUSES: tuple[Cause, ...] = (
    Cause("contraction", "contraction", (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), "factor of distances"),
    Cause(
        "shift, length kept", "translation", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "size of the shift",
        "around",
    ),
    Cause("shift across", "translation", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "size of the shift"),
    Cause(
        "shift along", "translation", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "size of the shift",
        "along",
    ),
    Cause("rotation", "rotation", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "share turned"),
    Cause("scale", "scale", (1.0, 1.4, 1.8, 2.2, 2.6, 3.0), "factor of states"),
    Cause("less noise", "noise_treated", (3.0, 2.7, 2.4, 2.1, 1.8, 1.5), "noise"),
    Cause("more noise", "noise_treated", (3.0, 3.3, 3.6, 3.9, 4.2, 4.5), "noise"),
    Cause("fewer questions", "questions_treated", (20, 16, 12, 9, 7, 5), "questions"),
)  # fmt: skip
"""The first dose of each changes nothing."""

_LENGTHENS = {"shift across", "shift along"}
_NOISE = {"less noise", "more noise"}
MOVES: dict[str, frozenset[str]] = {
    name: frozenset(causes)
    for name, causes in {
        "cosine_difference": {"contraction", *_LENGTHENS, *_NOISE, "fewer questions"},
        "crossvalidated_cosine_difference": {"contraction", *_LENGTHENS},
        # A common factor moves all centroids along their mean.
        "translation_share": {*_LENGTHENS, "scale"},
        "cosine_difference_minus_translation": {"contraction", *_NOISE, "scale"},
        # Equal noise weighs less on longer centroids, and more on centroids of fewer questions.
        "noise_share": {*_NOISE, *_LENGTHENS, "fewer questions"},
        "centred_cosine_difference": set(),  # pinned near -1/(P - 1)
        # Dimensions are dimensions of one basis, so even a turn of the states moves it.
        "trimmed_cosine_difference": {
            "contraction",
            "shift, length kept",
            *_LENGTHENS,
            *_NOISE,
            "rotation",
        },
        # Scaled variances follow a shift only through the norm that scales them.
        "contraction": {"contraction", *_LENGTHENS},
        "scatter_ratio": {"contraction", *_LENGTHENS},
        "pair_scatter_ratio": {"contraction", *_LENGTHENS},
        "noise_ratio": {*_NOISE, *_LENGTHENS},
        "contraction_minus_noise": {"contraction", *_NOISE},
        "unscaled_scatter_ratio": {"contraction", "scale"},
        "unscaled_noise_ratio": {*_NOISE, "scale"},
        "norm_ratio": {*_LENGTHENS, "scale"},
        "participation_ratio_difference": {"contraction", *_NOISE, "fewer questions"},
    }.items()
}
"""Measure to the causes that move it; the tests hold every other cause to leave it where it is."""


def response(treated: States, control: States) -> dict[str, float | None]:
    """Every measure of a planted pair, mean over layers; ratios as logs, so that no change is 0.

    With fewer questions in one condition, each condition's levels are taken from its own questions; a measure that
    needs the same questions in both is None then. So is one that is undefined.
    """
    if treated.questions == control.questions:
        states = {"treated": treated, "control": control}
        grams = pair_grams(states, [("treated", "control")], control.personas[0], control.personas[1:])
        [found] = measure_values(grams, resamples=0, seed=0)
        return {name: _known(float(values.estimate_L.mean())) for name, values in found.items()}
    ours, theirs = _own(treated), _own(control)
    pair = PairProducts(PairPanel(ours.panel, theirs.panel, None, None), ours, theirs, theirs.weights)
    return {
        name: None if name in NEEDS else _known(float(measure(pair).mean()))
        for name, measure in MEASURES.items()
    }


def responses(cause: Cause, dose: float, draws: int, seed: int = 0) -> dict[str, list[float]]:
    """Every measure's responses to one dose, `draws` planted pairs of `SIZES`; fewer where it is undefined."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for draw in range(draws):
        pair = planted_pair(np.random.default_rng([seed, draw]), **SIZES, **cause.change(dose))
        for name, value in response(*pair).items():
            if value is not None:
                found[name].append(value)
    return found


def _own(states: States) -> Products:
    """One condition's products on all its questions, each with equal weight."""
    grams = np.stack([states.gram(layer) for layer in states.layers])
    panel = Panel(Kernels.of_gram(grams)).collapsed()
    return Products(panel, QuestionWeights.equal(len(states.questions)))


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
