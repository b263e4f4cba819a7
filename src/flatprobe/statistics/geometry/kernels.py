"""Quadratic forms of question kernels: how a centroid's inner products follow its questions' weights.

A centroid under question weights u (which sum to 1) is sum_q u_q h_q, so an inner product of two centroids is
u' K u with the Q x Q kernel K of their questions' inner products. Point estimate (equal weights), jackknife (a
zero) and bootstrap (multinomial counts) are columns of one weight matrix. All kernels share the products u_q u_r
of a block of weights; a form then is one row of a matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flatprobe.statistics.bootstrap import Array


@dataclass(frozen=True, eq=False)
class Kernels:
    """Symmetric kernels over questions, packed along the last axis; any axes before it."""

    apart: Array
    """K[q, r] + K[r, q] for q < r, shape (..., Q(Q - 1)/2)."""
    same: Array
    """K[q, q], shape (..., Q)."""

    @classmethod
    def of_gram(cls, gram_LPQPQ: Array) -> Kernels:
        """The kernel of every ordered pair of personas, leading axes (L, P, P)."""
        kernels = gram_LPQPQ.swapaxes(2, 3)
        first, second = np.triu_indices(kernels.shape[-1], 1)
        apart = kernels[..., first, second] + kernels[..., second, first]
        return cls(apart, np.ascontiguousarray(np.einsum("...qq->...q", kernels)))

    def __getitem__(self, index: Any) -> Kernels:
        """Kernels at an index of the leading axes."""
        return Kernels(self.apart[index], self.same[index])

    def mean(self, axis: int | tuple[int, ...]) -> Kernels:
        """Mean kernel over leading axes."""
        return Kernels(self.apart.mean(axis=axis), self.same.mean(axis=axis))

    def collapsed(self) -> Kernels:
        """Summed over question pairs: all that is left to know under `QuestionWeights.equal`."""
        return Kernels(self.apart.sum(axis=-1, keepdims=True), self.same.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, eq=False)
class QuestionWeights:
    """A block of B weightings of the questions, and the products that every kernel needs."""

    apart_NB: Array
    """u_q u_r for q < r."""
    squares_QB: Array
    """u_q^2."""
    same_QB: Array
    """u_q (1 - u_q), normalised: the weights of q in a mean over the pairs (q, r) of distinct questions."""
    per_distinct_B: Array
    """1 / sum_{q != r} u_q u_r; NaN where one question has all the weight, so that no pair is left."""

    @classmethod
    def of(cls, w_BQ: Array) -> QuestionWeights:
        """From counts or other non-negative weights, one row per weighting."""
        u_QB = np.ascontiguousarray((w_BQ / w_BQ.sum(axis=1, keepdims=True)).T)
        squares_QB = u_QB**2
        distinct_B = 1.0 - squares_QB.sum(axis=0)
        per_distinct_B = np.divide(
            1.0, distinct_B, out=np.full_like(distinct_B, np.nan), where=distinct_B > 0
        )
        first, second = np.triu_indices(len(u_QB), 1)
        apart_NB = u_QB[first] * u_QB[second]
        return cls(apart_NB, squares_QB, (u_QB - squares_QB) * per_distinct_B, per_distinct_B)

    @classmethod
    def equal(cls, questions: int) -> QuestionWeights:
        """One equal weighting, for `Kernels.collapsed`."""
        pair = np.full((1, 1), 1.0 / questions**2)
        per_distinct = questions / (questions - 1) if questions > 1 else np.nan
        same = np.full((1, 1), 1.0 / questions if questions > 1 else np.nan)
        return cls(pair, pair, same, np.array([per_distinct]))


@dataclass(frozen=True, eq=False)
class Forms:
    """Weighted means of kernels over pairs of questions, shape (..., B); computed when first asked for.

    Kernels of equal shape go through equal matrix products, so equal kernels have equal forms to the last bit.
    """

    kernels: Kernels
    weights: QuestionWeights

    @cached_property
    def _apart(self) -> Array:
        return _rows(self.kernels.apart, self.weights.apart_NB)

    @cached_property
    def full(self) -> Array:
        """Over all question pairs, q = r included: products of the plain centroids."""
        forms: Array = self._apart + _rows(self.kernels.same, self.weights.squares_QB)
        return forms

    @cached_property
    def distinct(self) -> Array:
        """Over pairs of distinct *original* questions: products without the states' noise.

        A question drawn twice never forms a pair with itself: that would bring back the noise that
        cross-validation removes.
        """
        forms: Array = self._apart * self.weights.per_distinct_B
        return forms

    @cached_property
    def same(self) -> Array:
        """Over single questions, weighted as in `distinct`: same - distinct is a mean over pairs of
        (K[q, q] + K[r, r]) / 2 - K[q, r], the unbiased (co)variance over questions."""
        return _rows(self.kernels.same, self.weights.same_QB)


def _rows(packed: Array, weights: Array) -> Array:
    """One matrix product for all leading axes at once: (..., N) by (N, B) is (..., B)."""
    leading = packed.shape[:-1]
    forms: Array = packed.reshape(math.prod(leading), packed.shape[-1]) @ weights
    return forms.reshape(*leading, weights.shape[1])
