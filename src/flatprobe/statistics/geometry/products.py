"""Which quadratic forms the geometric measures of a panel need, and their values under a block of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.kernels import Forms, Kernels, QuestionWeights


@dataclass(frozen=True, eq=False)
class Panel:
    """Kernels of one condition between personas; persona 0 is the source."""

    kernels: Kernels
    """Leading axes (L, P, P)."""

    @property
    def personas(self) -> int:
        """P, the source included."""
        return int(self.kernels.same.shape[1])

    @cached_property
    def source(self) -> Kernels:
        """The source with every persona, itself first, (L, P)."""
        return self.kernels[:, 0]

    @cached_property
    def own(self) -> Kernels:
        """Every persona with itself, (L, P)."""
        every = np.arange(self.personas)
        return self.kernels[:, every, every]

    @cached_property
    def grand(self) -> Kernels:
        """The personas' mean with itself, (L,)."""
        return self.kernels.mean(axis=(1, 2))

    @cached_property
    def centred(self) -> Panel:
        """The same personas about their mean; centred before any form is, so that no digits are lost."""
        apart, same = (
            values - values.mean(axis=1, keepdims=True) for values in (self.kernels.apart, self.kernels.same)
        )
        return Panel(
            Kernels(apart - apart.mean(axis=2, keepdims=True), same - same.mean(axis=2, keepdims=True))
        )

    @cached_property
    def pairs(self) -> Kernels:
        """Every pair of different personas once, (L, P(P - 1)/2)."""
        first, second = np.triu_indices(self.personas, 1)
        return self.kernels[:, first, second]

    def subset(self, rows: Sequence[int]) -> Panel:
        """The panel of some personas, in the order given: a plain sub-block."""
        return Panel(self.kernels[:, rows][:, :, rows])

    def collapsed(self) -> Panel:
        """The same panel for `QuestionWeights.equal` only."""
        return Panel(self.kernels.collapsed())


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of one condition's centroids under a block of question weights, arrays (L, ..., B).

    Forms and levels are computed when first asked for; those about the personas' mean start with `centred`.
    """

    panel: Panel
    weights: QuestionWeights

    @cached_property
    def source(self) -> Forms:
        """The source's centroid with every centroid, its own first, (L, P, B)."""
        return Forms(self.panel.source, self.weights)

    @cached_property
    def own(self) -> Forms:
        """Squared norms, (L, P, B)."""
        return Forms(self.panel.own, self.weights)

    @cached_property
    def grand(self) -> Forms:
        """Squared norm of the grand mean over personas, (L, B)."""
        return Forms(self.panel.grand, self.weights)

    @cached_property
    def centred_own(self) -> Forms:
        """As `own`, about the personas' mean, (L, P, B)."""
        return Forms(self.panel.centred.own, self.weights)

    @cached_property
    def cosine(self) -> Array:
        """Mean over bystanders of the source's cosine of plain centroids, (L, B): the registered measure."""
        return mean_cosine(self.source.full, self.own.full)

    @cached_property
    def crossvalidated_cosine(self) -> Array:
        """The same from distinct questions, free of the states' noise, (L, B)."""
        return mean_cosine(self.source.distinct, self.own.distinct)

    @cached_property
    def centred_cosine(self) -> Array:
        """As `cosine` without the personas' grand mean, (L, B); over all pairs its mean is near -1/(P - 1)."""
        source = Forms(self.panel.centred.source, self.weights)
        return mean_cosine(source.full, self.centred_own.full)

    @cached_property
    def scatter(self) -> Array:
        """Mean over source-bystander pairs of the unbiased squared distance, (L, B); can be non-positive."""
        own, source = self.own.distinct, self.source.distinct
        scatter: Array = (own[:, :1] + own[:, 1:] - 2 * source[:, 1:]).mean(axis=1)
        return scatter

    @cached_property
    def pair_scatter(self) -> Array:
        """Mean over all persona pairs of the unbiased squared distance, (L, B)."""
        personas = self.panel.personas
        scatter: Array = self.centred_own.distinct.mean(axis=1) * (2 * personas / (personas - 1))
        return scatter

    @cached_property
    def noise(self) -> Array:
        """Persona x question interaction variance, summed over the hidden size, (L, B).

        Question main effect removed, (P - 1)(Q - 1) df: the variance over questions, unbiased, of each persona
        about the personas' mean.
        """
        own, personas = self.centred_own, self.panel.personas
        noise: Array = (own.same - own.distinct).mean(axis=1) * (personas / (personas - 1))
        return noise

    @cached_property
    def norm(self) -> Array:
        """Mean over personas of the centroid's norm, free of the states' noise, (L, B).

        Norms of single states would not do as a scale: they shrink when answers merely become less noisy.
        """
        norm: Array = _root(self.own.distinct).mean(axis=1)
        return norm

    @cached_property
    def participation_ratio(self) -> Array:
        """Effective number of directions of the personas' differences, (tr M)^2 / tr(M^2), (L, B).

        M is the doubly centred cross-validated Gram matrix of the centroids. Undefined where its trace is not
        positive: no persona signal.
        """
        own = self.centred_own.distinct
        pairs = Forms(self.panel.centred.pairs, self.weights).distinct
        trace = own.sum(axis=1)
        squares = (own**2).sum(axis=1) + 2 * (pairs**2).sum(axis=1)
        ratio: Array = np.divide(
            trace**2, squares, out=np.full_like(trace, np.nan), where=self.beyond_rounding(trace)
        )
        return ratio

    def beyond_rounding(self, variance_LB: Array) -> NDArray[np.bool_]:
        """Whether a squared distance or variance is positive by more than rounding of the squared norms."""
        beyond: NDArray[np.bool_] = variance_LB > RELATIVE_ROUNDING * self.own.full.mean(axis=1)
        return beyond


RELATIVE_ROUNDING = 1e-12
"""Squared distances below this share of the squared norms are rounding, and no distance at all."""


def mean_cosine(source_LPB: Array, own_LPB: Array) -> Array:
    """Mean over bystanders of the source's cosine, (L, B); undefined where a squared norm is not positive."""
    mean: Array = bystander_cosines(source_LPB, own_LPB).mean(axis=1)
    return mean


def bystander_cosines(source_LPB: Array, own_LPB: Array) -> Array:
    """The source's cosine with each bystander, (L, P - 1, B)."""
    norms = _root(own_LPB)
    cosines: Array = source_LPB[:, 1:] / (norms[:, :1] * norms[:, 1:])
    return cosines


def _root(squared: Array) -> Array:
    root: Array = np.sqrt(np.where(squared > 0, squared, np.nan))
    return root
