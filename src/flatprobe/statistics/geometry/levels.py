"""The two levels that a geometric measure compares, where it compares two: base and treated beside the difference."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.grams import PairGrams
from flatprobe.statistics.geometry.kernels import QuestionWeights
from flatprobe.statistics.geometry.measures import RATIOS, PairPanel, PairProducts
from flatprobe.statistics.geometry.products import Products

Level = Callable[[PairProducts], tuple[Array, Array]]


def _trimmed(pair: PairProducts) -> tuple[Array, Array]:
    assert pair.panel.trimmed is not None, "a caller asks for what the Gram matrices hold"
    treated, control = (Products(panel, pair.weights).cosine for panel in pair.panel.trimmed)
    return control, treated


LEVELS: dict[str, Level] = {
    "cosine_difference": lambda pair: (pair.control.cosine, pair.treated.cosine),
    "crossvalidated_cosine_difference": lambda pair: (
        pair.control.crossvalidated_cosine, pair.treated.crossvalidated_cosine,
    ),
    "centred_cosine_difference": lambda pair: (pair.control.centred_cosine, pair.treated.centred_cosine),
    "trimmed_cosine_difference": _trimmed,
    "translation_share": lambda pair: (pair.control.cosine, pair.translated_cosine),
    "participation_ratio_difference": lambda pair: (
        pair.control.participation_ratio, pair.treated.participation_ratio,
    ),
    "scatter_ratio": lambda pair: (pair.control.scatter, pair.treated.scatter * np.exp(pair.scale)),
    "pair_scatter_ratio": lambda pair: (
        pair.control.pair_scatter, pair.treated.pair_scatter * np.exp(pair.scale),
    ),
    "noise_ratio": lambda pair: (pair.control.noise, pair.treated.noise * np.exp(pair.scale)),
    "unscaled_scatter_ratio": lambda pair: (pair.control.scatter, pair.treated.scatter),
    "unscaled_noise_ratio": lambda pair: (pair.control.noise, pair.treated.noise),
    "norm_ratio": lambda pair: (pair.control.norm, pair.treated.norm),
}  # fmt: skip
"""Measure to (control, treated), each (L, B), in the units that the measure compares: the treated scatter and noise of
scaled ratios are on states scaled to the control's norm. The level of `translation_share` is the control's cosine
before and after the common shift. Measures that are made of two others (shares, `contraction`) have none."""


def measure_levels(
    grams: PairGrams, measures: Collection[str] | None = None
) -> dict[str, dict[int | None, tuple[float | None, float | None]]]:
    """(control, treated) of the measures named (default: all) that are in `LEVELS`, at every layer and over layers
    (key None).

    Over layers as the measure is: the arithmetic mean, for ratios the geometric one, so that treated minus control
    (treated over control) is the measure. None where undefined, and over layers where a layer is.
    """
    panel, weights = PairPanel.of(grams).collapsed(), QuestionWeights.equal(len(grams.control.questions))
    products = PairProducts(
        panel, Products(panel.treated, weights), Products(panel.control, weights), weights
    )
    found: dict[str, dict[int | None, tuple[float | None, float | None]]] = {}
    for name, level in LEVELS.items():
        if measures is not None and name not in measures:
            continue
        control, treated = (side[:, 0] for side in level(products))
        over = _geometric_mean if name in RATIOS else _mean
        layers: dict[int | None, tuple[float | None, float | None]] = {
            layer: (_known(control[index]), _known(treated[index]))
            for index, layer in enumerate(grams.control.layers)
        }
        found[name] = layers | {None: (_known(over(control)), _known(over(treated)))}
    return found


def _mean(values: Array) -> float:
    return float(values.mean())


def _geometric_mean(values: Array) -> float:
    return float(np.exp(np.log(values).mean())) if (values > 0).all() else float("nan")


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
