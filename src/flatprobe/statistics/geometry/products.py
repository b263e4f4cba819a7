"""Inner products of one condition's centroids under a block of question weights: cosines, distances and norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.kernels import Forms, Kernels, QuestionWeights

RELATIVE_ROUNDING = 1e-12
"""Squared distances below this share of the squared norms are rounding errors."""


@dataclass(frozen=True, eq=False)
class PersonaKernels:
    """Kernels of one condition between personas; persona 0 is the source."""

    kernels: Kernels
    """Leading axes (L, P, P)."""

    @property
    def personas(self) -> int:
        """P, the source included."""
        return int(self.kernels.diagonal.shape[1])

    @cached_property
    def source(self) -> Kernels:
        """The source with every persona, itself first, (L, P)."""
        return self.kernels[:, 0]

    @cached_property
    def squares(self) -> Kernels:
        """Every persona with itself, (L, P)."""
        every = np.arange(self.personas)
        return self.kernels[:, every, every]

    @cached_property
    def grand_mean(self) -> Kernels:
        """The personas' mean with itself, (L,)."""
        return self.kernels.mean(axis=(1, 2))

    @cached_property
    def centred(self) -> PersonaKernels:
        """The personas minus their mean. Centring kernels instead of forms loses no digits."""
        off_diagonal, diagonal = (
            values - values.mean(axis=1, keepdims=True) for values in (self.kernels.off_diagonal, self.kernels.diagonal)
        )
        return PersonaKernels(
            Kernels(
                off_diagonal - off_diagonal.mean(axis=2, keepdims=True), diagonal - diagonal.mean(axis=2, keepdims=True)
            )
        )

    @cached_property
    def pairs(self) -> Kernels:
        """Every pair of different personas once, (L, P(P - 1)/2)."""
        first, second = np.triu_indices(self.personas, 1)
        return self.kernels[:, first, second]

    def subset(self, rows: Sequence[int]) -> PersonaKernels:
        """The kernels of some personas, in the order given: a plain sub-block."""
        return PersonaKernels(self.kernels[:, rows][:, :, rows])

    def collapsed(self) -> PersonaKernels:
        """The same kernels, for `QuestionWeights.equal` only."""
        return PersonaKernels(self.kernels.collapsed())


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of one condition's centroids under a block of question weights, arrays (L, ..., B).

    Each is computed on first use. Names with `centred` refer to personas minus their mean.
    """

    kernels: PersonaKernels
    weights: QuestionWeights

    @cached_property
    def source(self) -> Forms:
        """The source's centroid with every centroid, itself first, (L, P, B)."""
        return Forms(self.kernels.source, self.weights)

    @cached_property
    def squares(self) -> Forms:
        """Squared norms, (L, P, B)."""
        return Forms(self.kernels.squares, self.weights)

    @cached_property
    def grand_mean(self) -> Forms:
        """Squared norm of the grand mean over personas, (L, B)."""
        return Forms(self.kernels.grand_mean, self.weights)

    @cached_property
    def centred_squares(self) -> Forms:
        """Squared norms of the personas minus their mean, (L, P, B)."""
        return Forms(self.kernels.centred.squares, self.weights)

    @cached_property
    def cosine(self) -> Array:
        """Mean over bystanders of the source's cosine of plain centroids, (L, B): the registered measure."""
        return mean_cosine(self.source.full, self.squares.full)

    @cached_property
    def crossvalidated_cosine(self) -> Array:
        """The same from distinct questions, free of the states' noise, (L, B)."""
        return mean_cosine(self.source.distinct, self.squares.distinct)

    @cached_property
    def centred_cosine(self) -> Array:
        """As `cosine` of the personas minus their mean, (L, B); over all pairs its mean is near -1/(P - 1)."""
        source = Forms(self.kernels.centred.source, self.weights)
        return mean_cosine(source.full, self.centred_squares.full)

    @cached_property
    def scatter(self) -> Array:
        """Mean over source-bystander pairs of the unbiased squared distance, (L, B); can be non-positive."""
        squares, source = self.squares.distinct, self.source.distinct
        scatter: Array = (squares[:, :1] + squares[:, 1:] - 2 * source[:, 1:]).mean(axis=1)
        return scatter

    @cached_property
    def noise(self) -> Array:
        """Persona x question interaction variance, summed over the hidden size, (L, B).

        The unbiased variance over questions of each persona minus the personas' mean, (P - 1)(Q - 1) df.
        """
        forms, personas = self.centred_squares, self.kernels.personas
        noise: Array = (forms.diagonal - forms.distinct).mean(axis=1) * (personas / (personas - 1))
        return noise

    @cached_property
    def norm(self) -> Array:
        """Mean over personas of the centroid's norm, free of the states' noise, (L, B).

        The norm of single states is no suitable scale: it shrinks when answers only become less noisy.
        """
        norm: Array = _root(self.squares.distinct).mean(axis=1)
        return norm

    @cached_property
    def participation_ratio(self) -> Array:
        """Effective number of directions of the personas' differences, (tr M)^2 / tr(M^2), (L, B).

        M is the doubly centred cross-validated Gram matrix of the centroids. NaN where its trace is not positive, so
        where there is no persona signal.
        """
        squares = self.centred_squares.distinct
        pairs = Forms(self.kernels.centred.pairs, self.weights).distinct
        trace = squares.sum(axis=1)
        trace_of_square = (squares**2).sum(axis=1) + 2 * (pairs**2).sum(axis=1)
        ratio: Array = np.divide(
            trace**2, trace_of_square, out=np.full_like(trace, np.nan), where=self.beyond_rounding(trace)
        )
        return ratio

    def beyond_rounding(self, variance_LB: Array) -> NDArray[np.bool_]:
        """Whether a squared distance or variance is positive by more than the rounding of the squared norms."""
        beyond: NDArray[np.bool_] = variance_LB > RELATIVE_ROUNDING * self.squares.full.mean(axis=1)
        return beyond


def mean_cosine(source_LPB: Array, squares_LPB: Array) -> Array:
    """Mean over bystanders of the source's cosine, (L, B); NaN where a squared norm is not positive."""
    mean: Array = bystander_cosines(source_LPB, squares_LPB).mean(axis=1)
    return mean


def bystander_cosines(source_LPB: Array, squares_LPB: Array) -> Array:
    """The source's cosine with each bystander, (L, P - 1, B)."""
    norms = _root(squares_LPB)
    cosines: Array = source_LPB[:, 1:] / (norms[:, :1] * norms[:, 1:])
    return cosines


def _root(squared: Array) -> Array:
    root: Array = np.sqrt(np.where(squared > 0, squared, np.nan))
    return root
