"""The two values that a geometric measure compares: in the control and in the treated condition."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import finite
from flatprobe.statistics.geometry.grams import PairGrams
from flatprobe.statistics.geometry.kernels import QuestionWeights
from flatprobe.statistics.geometry.measures import RATIOS, PairKernels, PairProducts

ByLayer = dict[int | None, tuple[float | None, float | None]]
"""(control, treated) at every layer; the key None is over layers."""

CONDITION_VALUES: dict[str, Callable[[PairProducts], tuple[Array, Array]]] = {
    "cosine_difference": lambda pair: (pair.control.cosine, pair.treated.cosine),
    "crossvalidated_cosine_difference": lambda pair: (
        pair.control.crossvalidated_cosine,
        pair.treated.crossvalidated_cosine,
    ),
    "trimmed_cosine_difference": lambda pair: (pair.trimmed_cosines[1], pair.trimmed_cosines[0]),
    "translation_share": lambda pair: (pair.control.cosine, pair.translated_cosine),
    "participation_ratio_difference": lambda pair: (pair.control.participation_ratio, pair.treated.participation_ratio),
    "scatter_ratio": lambda pair: (pair.control.scatter, pair.treated.scatter * np.exp(pair.scale)),
    "noise_ratio": lambda pair: (pair.control.noise, pair.treated.noise * np.exp(pair.scale)),
    "unscaled_scatter_ratio": lambda pair: (pair.control.scatter, pair.treated.scatter),
    "unscaled_noise_ratio": lambda pair: (pair.control.noise, pair.treated.noise),
    "norm_ratio": lambda pair: (pair.control.norm, pair.treated.norm),
}
"""Measure to (control, treated), each (L, B), in the units that the measure compares.

The treated scatter and noise of scaled ratios are on states scaled to the control's norm. `translation_share` compares
the control's cosine before and after the translation. Measures made of two others (shares, `contraction`) are absent.
"""


def condition_values(grams: PairGrams, measures: Collection[str] | None = None) -> dict[str, ByLayer]:
    """(control, treated) of those of the measures (default: all) that are in `CONDITION_VALUES`, by layer.

    Over layers they are averaged as the measure is: arithmetically, for ratios geometrically. So treated - control, or
    treated / control, is the measure. None where undefined; over layers None where one layer is undefined.
    """
    weights = QuestionWeights.equal(len(grams.control.questions))
    products = PairProducts.of(PairKernels.of(grams).collapsed(), weights)
    by_measure: dict[str, ByLayer] = {}
    for name, both in CONDITION_VALUES.items():
        if measures is not None and name not in measures:
            continue
        control, treated = (values_LB[:, 0] for values_LB in both(products))
        mean = _geometric_mean if name in RATIOS else _mean
        by_layer: ByLayer = {
            layer: (finite(control[index]), finite(treated[index])) for index, layer in enumerate(grams.control.layers)
        }
        by_measure[name] = by_layer | {None: (finite(mean(control)), finite(mean(treated)))}
    return by_measure


def _mean(values: Array) -> float:
    return float(values.mean())


def _geometric_mean(values: Array) -> float:
    return float(np.exp(np.log(values).mean())) if (values > 0).all() else float("nan")
