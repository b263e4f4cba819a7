"""Inner products of the hidden states of one condition; everything later reads them and no hidden dimension.

Array suffixes: P personas (0 is the source where there is one), Q questions, D hidden, L layers.
"""

from __future__ import annotations

import numpy as np

from flatprobe.statistics.bootstrap import Array


def persona_gram(h_PQD: Array) -> Array:
    """Inner products of all states of one condition and layer, float64, shape (P, Q, P, Q)."""
    return cross_gram(h_PQD, h_PQD)


def cross_gram(h_PQD: Array, k_PQD: Array) -> Array:
    """Inner products of each state of `h` with each state of `k`, float64, shape (P, Q, P, Q)."""
    personas, questions, hidden = h_PQD.shape
    rows = np.ascontiguousarray(h_PQD, dtype=np.float64).reshape(personas * questions, hidden)
    others = rows
    if k_PQD is not h_PQD:
        others = np.ascontiguousarray(k_PQD, dtype=np.float64).reshape(personas * questions, hidden)
    gram: Array = (rows @ others.T).reshape(personas, questions, personas, questions)
    return gram


def centre_personas(gram_PQPQ: Array) -> Array:
    """Gram matrix of the states minus each question's mean over personas."""
    centred: Array = gram_PQPQ - gram_PQPQ.mean(axis=0, keepdims=True)
    centred = centred - centred.mean(axis=2, keepdims=True)
    return centred


def shared_kernel(gram_PQPQ: Array) -> Array:
    """N[q, q'] = sum over personas of <x_pq, x_pq'>, shape (Q, Q), of states x minus the question's mean."""
    shared: Array = np.einsum("pqpr->qr", centre_personas(gram_PQPQ))
    return shared
