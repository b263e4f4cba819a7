"""Inner products of hidden states, once per layer; everything geometric is a quadratic form in question
weights.

A centroid under question weights w is sum_q w_q h_q / sum_q w_q, so an inner product of two centroids is w' K
w with the Q x Q kernel K of their questions' inner products. Point estimate (all ones), jackknife (a zero)
and bootstrap (multinomial counts) are rows of one weight matrix, and the hidden size plays no part after
`persona_gram`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatprobe.statistics.bootstrap import CHUNK_VALUES, Array


def persona_gram(h_PQD: Array) -> Array:
    """Inner products of all states of one condition and layer, float64, shape (P, Q, P, Q)."""
    personas, questions, hidden = h_PQD.shape
    rows = np.ascontiguousarray(h_PQD, dtype=np.float64).reshape(personas * questions, hidden)
    gram: Array = (rows @ rows.T).reshape(personas, questions, personas, questions)
    return gram


def centre_personas(gram_PQPQ: Array) -> Array:
    """Gram matrix without the question main effect: each question's mean over personas is taken out."""
    centred: Array = gram_PQPQ - gram_PQPQ.mean(axis=0, keepdims=True)
    centred = centred - centred.mean(axis=2, keepdims=True)
    return centred


def quadratic_forms(kernels_KQQ: Array, w_BQ: Array) -> Array:
    """sum_{q,q'} w_q w_q' K[q, q'] for every weight row and kernel, shape (B, K)."""
    kernels, questions, _ = kernels_KQQ.shape
    flat_QQK = kernels_KQQ.reshape(kernels, questions * questions).T
    out = np.empty((len(w_BQ), kernels))
    block = max(1, CHUNK_VALUES // questions**2)
    for start in range(0, len(w_BQ), block):
        w = w_BQ[start : start + block]
        out[start : start + block] = (w[:, :, None] * w[:, None, :]).reshape(len(w), -1) @ flat_QQK
    return out


def mean_forms(kernels_KQQ: Array, w_BQ: Array) -> Array:
    """Weighted mean of a kernel over all question pairs, q = q' included: centroids' products, (B, K)."""
    forms: Array = quadratic_forms(kernels_KQQ, w_BQ) / w_BQ.sum(axis=1, keepdims=True) ** 2
    return forms


def distinct_forms(kernels_KQQ: Array, w_BQ: Array) -> Array:
    """Weighted mean of a kernel over pairs of distinct *original* questions, (B, K); NaN without a pair.

    A question drawn twice never forms a pair with itself: that would bring back the noise that
    cross-validation removes.
    """
    apart = kernels_KQQ * (1.0 - np.eye(kernels_KQQ.shape[1]))
    pairs = w_BQ.sum(axis=1) ** 2 - (w_BQ**2).sum(axis=1)
    forms = quadratic_forms(apart, w_BQ)
    means: Array = np.divide(forms, pairs[:, None], out=np.full_like(forms, np.nan), where=pairs[:, None] > 0)
    return means


@dataclass(frozen=True)
class Products:
    """Inner products of one condition's centroids at one layer, per weight row; persona 0 is the source."""

    full_BPP: Array
    """Over all question pairs: the plain centroids."""
    distinct_BPP: Array
    """Over distinct questions: without the states' noise."""
    interaction_B: Array
    """Persona x question interaction variance, summed over the hidden size, with (P - 1)(Q - 1) df."""
    norm_B: Array
    """Mean norm of the states."""


def products(gram_PQPQ: Array, w_BQ: Array) -> Products:
    """What the measures need from one condition's Gram matrix, for every row of question weights."""
    personas, questions = gram_PQPQ.shape[:2]
    kernels = gram_PQPQ.transpose(0, 2, 1, 3).reshape(personas**2, questions, questions)
    shape = (len(w_BQ), personas, personas)
    norms_Q = np.sqrt(np.einsum("pqpq->pq", gram_PQPQ)).mean(axis=0)
    return Products(
        full_BPP=mean_forms(kernels, w_BQ).reshape(shape),
        distinct_BPP=distinct_forms(kernels, w_BQ).reshape(shape),
        interaction_B=distinct_forms(_interaction_kernel(gram_PQPQ)[None], w_BQ)[:, 0],
        norm_B=w_BQ @ norms_Q / w_BQ.sum(axis=1),
    )


def shared_kernel(gram_PQPQ: Array) -> Array:
    """N[q, q'] = sum over personas of <x_pq, x_pq'>, x free of the question's mean; (Q, Q)."""
    shared: Array = np.einsum("pqpr->qr", centre_personas(gram_PQPQ))
    return shared


def _interaction_kernel(gram_PQPQ: Array) -> Array:
    """Half the squared distance between a persona's states on two questions, so that its mean over distinct
    pairs is the ANOVA variance: sum_q |x_q - mean|^2 / (Q - 1) = mean_{q != q'} |x_q - x_q'|^2 / 2."""
    shared = shared_kernel(gram_PQPQ)
    own = np.diag(shared)
    kernel: Array = 0.5 * (own[:, None] + own[None, :]) - shared
    kernel /= max(1, gram_PQPQ.shape[0] - 1)
    return kernel
