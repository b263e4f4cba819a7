"""How well the states of one condition distinguish personas: separability and split-half reliability."""

from __future__ import annotations

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.inner_products import centre_personas, shared_kernel


def separability(gram_PQPQ: Array) -> float | None:
    """Share of states whose nearest leave-one-question-out centroid is their own persona's; chance is 1/P.

    Each question's mean over personas is removed first. A tie between m centroids, the own among them, counts 1/m, so
    that indistinguishable personas give the chance level. None with fewer than two questions.
    """
    questions = gram_PQPQ.shape[1]
    if questions < 2:
        return None
    x_PQPQ = centre_personas(gram_PQPQ)
    same_question_PQP = np.einsum("pqrq->pqr", x_PQPQ)
    onto_PQP = (x_PQPQ.sum(axis=3) - same_question_PQP) / (questions - 1)
    within_PQQ = np.einsum("pqpr->pqr", x_PQPQ)
    # |sum over q' != q of x_pq'|^2: all pairs, minus row q and column q, plus (q, q), which both contain.
    self_PQ = np.einsum("pqq->pq", within_PQQ)
    squared_PQ = (within_PQQ.sum(axis=(1, 2))[:, None] - 2 * within_PQQ.sum(axis=2) + self_PQ) / (questions - 1) ** 2
    distance_PQP = squared_PQ.T[None, :, :] - 2 * onto_PQP
    own_PQ = np.einsum("pqp->pq", distance_PQP)
    tolerance = 1e-9 * max(1e-300, float(np.abs(np.einsum("pqpq->pq", gram_PQPQ)).max()))
    closer = (distance_PQP < own_PQ[:, :, None] - tolerance).any(axis=2)
    ties = (np.abs(distance_PQP - own_PQ[:, :, None]) <= tolerance).sum(axis=2)
    return float(np.where(closer, 0.0, 1.0 / ties).mean())


def split_half_reliability(gram_PQPQ: Array, splits: int, generator: np.random.Generator) -> float | None:
    """Reliability of the personas' centroids at the full number of questions.

    For each random split of the questions into halves: centroids per half, minus that half's grand mean over
    personas; r is their cosine across halves over all persona-by-dimension entries. The mean r over splits is
    stepped up by the Spearman-Brown formula, 2r / (1 + r). A non-positive mean r is returned unchanged, because the
    formula means nothing there. None with fewer than two questions, or where the centroids of some half coincide.
    Raises ValueError for fewer than one split.
    """
    if splits < 1:
        raise ValueError("splits must be at least 1")
    shared_QQ = shared_kernel(gram_PQPQ)
    questions = len(shared_QQ)
    if questions < 2:
        return None
    order = np.argsort(generator.random((splits, questions)), axis=1)
    first_SQ = (order < questions // 2).astype(np.float64)
    second_SQ = 1.0 - first_SQ
    across = np.einsum("sq,qr,sr->s", first_SQ, shared_QQ, second_SQ)
    squares = [np.einsum("sq,qr,sr->s", half, shared_QQ, half) for half in (first_SQ, second_SQ)]
    floor = 1e-12 * float(np.einsum("pqpq->", gram_PQPQ))
    if min(float(square.min()) for square in squares) <= floor:
        return None
    correlation = float((across / np.sqrt(squares[0] * squares[1])).mean())
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation
