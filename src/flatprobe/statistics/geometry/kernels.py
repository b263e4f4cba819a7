"""Quadratic forms of question kernels: inner products of centroids as functions of the questions' weights.

A centroid under question weights u (which sum to 1) is sum_q u_q h_q. The inner product of two centroids is u' K u,
where the Q x Q kernel K holds the inner products of their questions. Point estimate (equal weights), jackknife (one
zero) and bootstrap (multinomial counts) are columns of one weight matrix. All kernels share the products u_q u_r of a
block of weights, so a form is one row of a matrix product.
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
    """Symmetric kernels over questions, packed along the last axis, with any leading axes."""

    off_diagonal: Array
    """K[q, r] + K[r, q] for q < r, shape (..., Q(Q - 1)/2)."""
    diagonal: Array
    """K[q, q], shape (..., Q)."""

    @classmethod
    def of_gram(cls, gram_LPQPQ: Array) -> Kernels:
        """The kernel of every ordered pair of personas, leading axes (L, P, P)."""
        kernels = gram_LPQPQ.swapaxes(2, 3)
        first, second = np.triu_indices(kernels.shape[-1], 1)
        off_diagonal = kernels[..., first, second] + kernels[..., second, first]
        return cls(off_diagonal, np.ascontiguousarray(np.einsum("...qq->...q", kernels)))

    def __getitem__(self, index: Any) -> Kernels:
        """Kernels at an index of the leading axes."""
        return Kernels(self.off_diagonal[index], self.diagonal[index])

    def mean(self, axis: int | tuple[int, ...]) -> Kernels:
        """Mean kernel over leading axes."""
        return Kernels(self.off_diagonal.mean(axis=axis), self.diagonal.mean(axis=axis))

    def collapsed(self) -> Kernels:
        """Summed over questions: enough for `QuestionWeights.equal`, and for no other weights."""
        return Kernels(self.off_diagonal.sum(axis=-1, keepdims=True), self.diagonal.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, eq=False)
class QuestionWeights:
    """A block of B weightings of the questions, and the products that every kernel needs."""

    off_diagonal_NB: Array
    """u_q u_r for q < r."""
    diagonal_QB: Array
    """u_q^2."""
    distinct_QB: Array
    """u_q (1 - u_q), normalised: the weight of q in a mean over the pairs (q, r) of distinct questions."""
    per_distinct_B: Array
    """1 / sum_{q != r} u_q u_r; NaN where one question has all the weight, so that no pair is left."""

    @classmethod
    def of(cls, w_BQ: Array) -> QuestionWeights:
        """From counts or other non-negative weights, one row per weighting."""
        u_QB = np.ascontiguousarray((w_BQ / w_BQ.sum(axis=1, keepdims=True)).T)
        diagonal_QB = u_QB**2
        distinct_B = 1.0 - diagonal_QB.sum(axis=0)
        per_distinct_B = np.divide(1.0, distinct_B, out=np.full_like(distinct_B, np.nan), where=distinct_B > 0)
        first, second = np.triu_indices(len(u_QB), 1)
        off_diagonal_NB = u_QB[first] * u_QB[second]
        return cls(off_diagonal_NB, diagonal_QB, (u_QB - diagonal_QB) * per_distinct_B, per_distinct_B)

    @classmethod
    def equal(cls, questions: int) -> QuestionWeights:
        """One equal weighting, for `Kernels.collapsed`."""
        pair = np.full((1, 1), 1.0 / questions**2)
        per_distinct = questions / (questions - 1) if questions > 1 else np.nan
        distinct = np.full((1, 1), 1.0 / questions if questions > 1 else np.nan)
        return cls(pair, pair, distinct, np.array([per_distinct]))


@dataclass(frozen=True, eq=False)
class Forms:
    """Weighted means of kernels over pairs of questions, shape (..., B), computed on first use.

    Kernels of equal shape go through equal matrix products, so equal kernels give bitwise equal forms.
    """

    kernels: Kernels
    weights: QuestionWeights

    @cached_property
    def _off_diagonal(self) -> Array:
        return _rows(self.kernels.off_diagonal, self.weights.off_diagonal_NB)

    @cached_property
    def full(self) -> Array:
        """Over all question pairs, q = r included: inner products of the plain centroids."""
        forms: Array = self._off_diagonal + _rows(self.kernels.diagonal, self.weights.diagonal_QB)
        return forms

    @cached_property
    def distinct(self) -> Array:
        """Over pairs of distinct *original* questions: inner products without the states' noise.

        A question drawn twice never forms a pair with itself, which would bring back the noise that
        cross-validation removes.
        """
        forms: Array = self._off_diagonal * self.weights.per_distinct_B
        return forms

    @cached_property
    def diagonal(self) -> Array:
        """Over single questions, weighted as in `distinct`.

        diagonal - distinct is a mean over pairs of (K[q, q] + K[r, r]) / 2 - K[q, r], the unbiased (co)variance over
        questions.
        """
        return _rows(self.kernels.diagonal, self.weights.distinct_QB)


def _rows(packed: Array, weights: Array) -> Array:
    """One matrix product for all leading axes at once: (..., N) by (N, B) is (..., B)."""
    leading = packed.shape[:-1]
    forms: Array = packed.reshape(math.prod(leading), packed.shape[-1]) @ weights
    return forms.reshape(*leading, weights.shape[1])
