"""The geometric measures of a pair of conditions, for every layer and every row of question weights.

Each measure maps `PairProducts` to an array (L, B) on a scale whose null is 0 (ratios as logs). NaN means
undefined (a non-positive variance, norm or squared distance); it becomes None with a reason at the border and
never a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.grams import PairGrams, Part
from flatprobe.statistics.geometry.kernels import Forms, Kernels, QuestionWeights
from flatprobe.statistics.geometry.products import Panel, Products, mean_cosine


@dataclass(frozen=True, eq=False)
class PairPanel:
    """Kernels of a pair of conditions over one set of personas; what no measure asks for may be None."""

    treated: Panel
    control: Panel
    onto_move: Kernels | None
    trimmed: tuple[Panel, Panel] | None
    """Treated and control without the largest dimensions."""

    @classmethod
    def of(cls, grams: PairGrams) -> PairPanel:
        """All personas of the Gram matrices; a condition's panel is the same object in all its pairs."""
        return cls(grams.treated.panel, grams.control.panel, grams.onto_move, grams.trimmed)

    @cached_property
    def onto_mean_move(self) -> Kernels:
        """Every control persona with the mean move over personas, (L, P)."""
        assert self.onto_move is not None, "measure_values asks for what a measure reads"
        return self.onto_move.mean(axis=2)

    def collapsed(self) -> PairPanel:
        """The same kernels for `QuestionWeights.equal` only."""
        return self._each(Panel.collapsed, Kernels.collapsed)

    def subset(self, rows: Sequence[int]) -> PairPanel:
        """The kernels between some personas, the source first."""
        return self._each(lambda panel: panel.subset(rows), lambda kernels: kernels[:, rows][:, :, rows])

    def _each(self, panels: Callable[[Panel], Panel], kernels: Callable[[Kernels], Kernels]) -> PairPanel:
        return PairPanel(
            panels(self.treated),
            panels(self.control),
            None if self.onto_move is None else kernels(self.onto_move),
            None if self.trimmed is None else (panels(self.trimmed[0]), panels(self.trimmed[1])),
        )


@dataclass(frozen=True, eq=False)
class PairProducts:
    """What the measures of a pair read under one block of weights."""

    panel: PairPanel
    treated: Products
    control: Products
    weights: QuestionWeights

    @cached_property
    def translated_cosine(self) -> Array:
        """Mean cosine of the control's centroids after all are moved by t, (L, B).

        t is the mean over source and bystanders of the treated minus the control centroid; its squared norm
        follows from |c + t|^2 of the two grand means.
        """
        onto_LPB = Forms(self.panel.onto_mean_move, self.weights).full
        grown_LB = self.treated.grand.full - self.control.grand.full
        squared_L1B = (grown_LB - 2 * onto_LPB.mean(axis=1))[:, None]
        source = self.control.source.full + onto_LPB[:, :1] + onto_LPB + squared_L1B
        return mean_cosine(source, self.control.own.full + 2 * onto_LPB + squared_L1B)

    @cached_property
    def scale(self) -> Array:
        """log of (control / treated norm)^2: what squared treated units are scaled by, (L, B)."""
        return 2 * _log_ratio(self.control.norm, self.treated.norm)

    @cached_property
    def scatter(self) -> Array:
        """log of the treated over the control scatter, as the states are, (L, B)."""
        return self._log_variances(self.treated.scatter, self.control.scatter)

    @cached_property
    def pair_scatter(self) -> Array:
        """As `scatter`, over all pairs."""
        return self._log_variances(self.treated.pair_scatter, self.control.pair_scatter)

    @cached_property
    def noise(self) -> Array:
        """log of the treated over the control noise, as the states are, (L, B)."""
        return self._log_variances(self.treated.noise, self.control.noise)

    def _log_variances(self, treated: Array, control: Array) -> Array:
        beyond = self.treated.beyond_rounding(treated) & self.control.beyond_rounding(control)
        return np.where(beyond, _log_ratio(treated, control), np.nan)


def _log_ratio(treated: Array, control: Array) -> Array:
    defined = (treated > 0) & (control > 0)
    ratio = np.divide(treated, control, out=np.full_like(treated, np.nan), where=defined)
    log: Array = np.log(ratio)
    return log


def _cosine(pair: PairProducts) -> Array:
    difference: Array = pair.treated.cosine - pair.control.cosine
    return difference


def _crossvalidated(pair: PairProducts) -> Array:
    difference: Array = pair.treated.crossvalidated_cosine - pair.control.crossvalidated_cosine
    return difference


def _translation(pair: PairProducts) -> Array:
    share: Array = pair.translated_cosine - pair.control.cosine
    return share


def _trimmed(pair: PairProducts) -> Array:
    assert pair.panel.trimmed is not None, "measure_values asks for what a measure reads"
    treated, control = (Products(panel, pair.weights).cosine for panel in pair.panel.trimmed)
    return treated - control


Measure = Callable[[PairProducts], Array]

MEASURES: dict[str, Measure] = {
    "cosine_difference": _cosine,
    "crossvalidated_cosine_difference": _crossvalidated,
    "translation_share": _translation,
    "cosine_difference_minus_translation": lambda pair: _cosine(pair) - _translation(pair),
    "noise_share": lambda pair: _cosine(pair) - _crossvalidated(pair),
    "centred_cosine_difference": lambda pair: pair.treated.centred_cosine - pair.control.centred_cosine,
    "trimmed_cosine_difference": _trimmed,
    "contraction": lambda pair: 0.0 - (pair.scatter + pair.scale),
    "scatter_ratio": lambda pair: pair.scatter + pair.scale,
    "pair_scatter_ratio": lambda pair: pair.pair_scatter + pair.scale,
    "noise_ratio": lambda pair: pair.noise + pair.scale,
    "contraction_minus_noise": lambda pair: pair.noise - pair.scatter,
    "unscaled_scatter_ratio": lambda pair: pair.scatter,
    "unscaled_noise_ratio": lambda pair: pair.noise,
    "norm_ratio": lambda pair: -pair.scale / 2,
    "participation_ratio_difference": lambda pair: (
        pair.treated.participation_ratio - pair.control.participation_ratio
    ),
}
"""Name to measure, treated against control.

Positive means flatter for the cosines and for `contraction` (-log of the scatter ratio); the ratios are logs of
treated / control here. `trimmed` is without the control's largest dimensions. Squared distances and variances
are on states scaled to the control's noise-free mean norm, so a common shift that lengthens all centroids counts
as contraction by 2 log `norm_ratio`: the `unscaled` ratios are free of that, and move under a common factor
instead; contraction_minus_noise is free of both.
"""

NEEDS: dict[str, Part] = {
    "translation_share": "moves",
    "cosine_difference_minus_translation": "moves",
    "trimmed_cosine_difference": "trimmed",
}
"""Measures that read more than the two conditions' own matrices."""

RATIOS = (
    "scatter_ratio", "pair_scatter_ratio", "noise_ratio", "unscaled_scatter_ratio", "unscaled_noise_ratio",
    "norm_ratio",
)  # fmt: skip
"""Measures that are reported as ratios: exponentiated, with null 1."""
