"""Table of every pair of personas in one condition: cosines of centroids and unbiased squared distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.kernels import Forms, Kernels, QuestionWeights
from flatprobe.statistics.geometry.products import Panel
from flatprobe.statistics.geometry.states import States


def persona_pair_table(states: States, pool: Sequence[str], *, position: str, responses: str) -> pl.DataFrame:
    """One row per layer and unordered pair of all personas, in the states' order.

    Columns: condition, layer, position, responses, persona, other, cosine (of plain centroids), squared_distance
    (unbiased: from products of different questions only, so its expectation is 0 for equal centroids and it may be
    negative) and relative_squared_distance (the same over the squared noise-free mean norm of the centroids of
    `pool`, source and bystanders: the scale on which `contraction` compares two conditions). Unknown is null: with
    one question there is no pair of different ones.
    """
    rows: list[dict[str, object]] = []
    places = [states.personas.index(persona) for persona in pool]
    first, second = np.triu_indices(len(states.personas), 1)
    for layer in states.layers:
        cosine_PP, distance_PP, squared_norm = _pairs(states.gram(layer), places)
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            distance = distance_PP[one, other]
            rows.append(
                {
                    "condition": states.condition,
                    "layer": layer,
                    "position": position,
                    "responses": responses,
                    "persona": states.personas[one],
                    "other": states.personas[other],
                    "cosine": _known(cosine_PP[one, other]),
                    "squared_distance": _known(distance),
                    "relative_squared_distance": _known(distance / squared_norm),
                }
            )
    return pl.DataFrame(rows, schema=_SCHEMA)


def _pairs(gram_PQPQ: Array, pool: Sequence[int]) -> tuple[Array, Array, float]:
    """Cosines and unbiased squared distances (P, P), and the squared mean norm of the pool, NaN where undefined."""
    panel = Panel(Kernels.of_gram(gram_PQPQ[None])).collapsed()
    weights = QuestionWeights.equal(gram_PQPQ.shape[1])
    full_PP = Forms(panel.kernels, weights).full[0, :, :, 0]
    # About the personas' mean, so that no digits are lost where distances are small beside the norms.
    apart_PP = Forms(panel.centred.kernels, weights).distinct[0, :, :, 0]
    squared_P = Forms(panel.own, weights).distinct[0, pool, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        length_P = np.sqrt(np.diag(full_PP))
        cosine_PP: Array = full_PP / np.outer(length_P, length_P)
        norm = np.sqrt(np.where(squared_P > 0, squared_P, np.nan)).mean()
    own_P = np.diag(apart_PP)
    distance_PP: Array = own_P[:, None] + own_P[None, :] - 2 * apart_PP
    return cosine_PP, distance_PP, float(norm) ** 2


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


_SCHEMA = {
    "condition": pl.String,
    "layer": pl.Int64,
    "position": pl.String,
    "responses": pl.String,
    "persona": pl.String,
    "other": pl.String,
    "cosine": pl.Float64,
    "squared_distance": pl.Float64,
    "relative_squared_distance": pl.Float64,
}
