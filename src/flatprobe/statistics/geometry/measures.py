"""The geometric measures of a pair of conditions, for every layer and every row of question weights.

Each measure maps `PairProducts` to an array (L, B) on a scale with null 0 (ratios as logs). NaN means undefined (a
non-positive variance, norm or squared distance); estimates report it as None with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.grams import PairGrams, Part
from flatprobe.statistics.geometry.kernels import Forms, Kernels, QuestionWeights
from flatprobe.statistics.geometry.products import PersonaKernels, Products, mean_cosine


@dataclass(frozen=True, eq=False)
class PairKernels:
    """Kernels of a pair of conditions over one set of personas; parts that no measure reads may be None."""

    treated: PersonaKernels
    control: PersonaKernels
    onto_move: Kernels | None
    trimmed: tuple[PersonaKernels, PersonaKernels] | None
    """Treated and control without the largest dimensions."""

    @classmethod
    def of(cls, grams: PairGrams) -> PairKernels:
        """All personas of the Gram matrices; all pairs with a condition share the kernels of that condition."""
        return cls(grams.treated.kernels, grams.control.kernels, grams.onto_move, grams.trimmed)

    @cached_property
    def onto_mean_move(self) -> Kernels:
        """Every control persona with the mean move over personas, (L, P)."""
        assert self.onto_move is not None, "callers provide the parts that a measure reads"
        return self.onto_move.mean(axis=2)

    def collapsed(self) -> PairKernels:
        """The same kernels, for `QuestionWeights.equal` only."""
        return self._each(PersonaKernels.collapsed, Kernels.collapsed)

    def subset(self, rows: Sequence[int]) -> PairKernels:
        """The kernels between some personas, the source first."""
        return self._each(lambda condition: condition.subset(rows), lambda kernels: kernels[:, rows][:, :, rows])

    def _each(
        self, conditions: Callable[[PersonaKernels], PersonaKernels], kernels: Callable[[Kernels], Kernels]
    ) -> PairKernels:
        return PairKernels(
            conditions(self.treated),
            conditions(self.control),
            None if self.onto_move is None else kernels(self.onto_move),
            None if self.trimmed is None else (conditions(self.trimmed[0]), conditions(self.trimmed[1])),
        )


@dataclass(frozen=True, eq=False)
class PairProducts:
    """What the measures of a pair read under one block of weights."""

    kernels: PairKernels
    treated: Products
    control: Products
    weights: QuestionWeights

    @classmethod
    def of(cls, kernels: PairKernels, weights: QuestionWeights) -> PairProducts:
        """The products of both conditions under these weights."""
        return cls(kernels, Products(kernels.treated, weights), Products(kernels.control, weights), weights)

    @cached_property
    def translated_cosine(self) -> Array:
        """Mean cosine of the control's centroids after all are moved by t, (L, B).

        t is the mean over source and bystanders of the treated minus the control centroid; its squared norm
        follows from |c + t|^2 of the two grand means.
        """
        onto_LPB = Forms(self.kernels.onto_mean_move, self.weights).full
        growth_LB = self.treated.grand_mean.full - self.control.grand_mean.full
        squared_L1B = (growth_LB - 2 * onto_LPB.mean(axis=1))[:, None]
        source = self.control.source.full + onto_LPB[:, :1] + onto_LPB + squared_L1B
        return mean_cosine(source, self.control.squares.full + 2 * onto_LPB + squared_L1B)

    @cached_property
    def trimmed_cosines(self) -> tuple[Array, Array]:
        """The treated and the control's mean cosine without the control's largest dimensions, each (L, B)."""
        assert self.kernels.trimmed is not None, "callers provide the parts that a measure reads"
        treated, control = (Products(kernels, self.weights).cosine for kernels in self.kernels.trimmed)
        return treated, control

    @cached_property
    def scale(self) -> Array:
        """log of (control / treated norm)^2, the factor that scales squared treated units, (L, B)."""
        return 2 * _log_ratio(self.control.norm, self.treated.norm)

    @cached_property
    def scatter(self) -> Array:
        """log of the treated over the control scatter of the unscaled states, (L, B)."""
        return self._log_variances(self.treated.scatter, self.control.scatter)

    @cached_property
    def noise(self) -> Array:
        """log of the treated over the control noise of the unscaled states, (L, B)."""
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
    treated, control = pair.trimmed_cosines
    return treated - control


Measure = Callable[[PairProducts], Array]

MEASURES: dict[str, Measure] = {
    "cosine_difference": _cosine,
    "crossvalidated_cosine_difference": _crossvalidated,
    "translation_share": _translation,
    "cosine_difference_minus_translation": lambda pair: _cosine(pair) - _translation(pair),
    "noise_share": lambda pair: _cosine(pair) - _crossvalidated(pair),
    "trimmed_cosine_difference": _trimmed,
    "contraction": lambda pair: 0.0 - (pair.scatter + pair.scale),
    "scatter_ratio": lambda pair: pair.scatter + pair.scale,
    "noise_ratio": lambda pair: pair.noise + pair.scale,
    "contraction_minus_noise": lambda pair: pair.noise - pair.scatter,
    "unscaled_scatter_ratio": lambda pair: pair.scatter,
    "unscaled_noise_ratio": lambda pair: pair.noise,
    "norm_ratio": lambda pair: -pair.scale / 2,
    "participation_ratio_difference": lambda pair: pair.treated.participation_ratio - pair.control.participation_ratio,
}
"""Name to measure, treated against control.

Positive means flatter for the cosines and for `contraction` (-log of the scatter ratio); the ratios are logs of
treated / control here. `trimmed` is without the control's largest dimensions. Squared distances and variances are on
states scaled to the control's noise-free mean norm. So a translation that lengthens all centroids counts as contraction
by 2 log `norm_ratio`. The `unscaled` ratios are free of that, but move under a common factor; contraction_minus_noise
is free of both.
"""

NEEDS: dict[str, Part] = {
    "translation_share": "moves",
    "cosine_difference_minus_translation": "moves",
    "trimmed_cosine_difference": "trimmed",
}
"""Measures that read more than the two conditions' Gram matrices."""

RATIOS = ("scatter_ratio", "noise_ratio", "unscaled_scatter_ratio", "unscaled_noise_ratio", "norm_ratio")
"""Measures that are reported as ratios: exponentiated, with null 1."""
