"""Descriptive tables of one condition's geometry: per persona, per pair of personas, and per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import finite
from flatprobe.statistics.geometry.kernels import Forms, Kernels, QuestionWeights
from flatprobe.statistics.geometry.products import PersonaKernels, Products, bystander_cosines
from flatprobe.statistics.geometry.reliability import separability, split_half_reliability
from flatprobe.statistics.geometry.states import StateKind, States, check_personas


def cosine_table(states: States, source: str, kind: StateKind) -> pl.DataFrame:
    """The source's cosine with every other persona, per layer.

    Columns: condition, layer, position, responses, persona, cosine (of centroids), crossvalidated_cosine (null where
    undefined), per_question_mean and per_question_sd (of the cosines of the states on the same question; the SD, over
    questions, is null with one question).
    """
    others = [persona for persona in states.personas if persona != source]
    personas = check_personas(states, source, others)
    rows: list[dict[str, object]] = []
    for layer in states.layers:
        h_PQD = states.layer(layer, personas)
        products = _products(states.gram(layer, personas))
        cosines = bystander_cosines(products.source.full, products.squares.full)[0, :, 0]
        crossvalidated = bystander_cosines(products.source.distinct, products.squares.distinct)[0, :, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            unit_PQD = h_PQD / np.linalg.norm(h_PQD, axis=2, keepdims=True)
            per_question_PQ = np.einsum("qd,pqd->pq", unit_PQD[0], unit_PQD[1:])
        for index, persona in enumerate(others):
            by_question = per_question_PQ[index]
            rows.append(
                {
                    **states.labels(layer, kind),
                    "persona": persona,
                    "cosine": finite(cosines[index]),
                    "crossvalidated_cosine": finite(crossvalidated[index]),
                    "per_question_mean": finite(by_question.mean()),
                    "per_question_sd": finite(by_question.std(ddof=1)) if len(by_question) > 1 else None,
                }
            )
    return pl.DataFrame(rows, schema=COSINES)


def persona_pair_table(states: States, pool: Sequence[str], kind: StateKind) -> pl.DataFrame:
    """One row per layer and unordered pair of all personas, in the states' order.

    Columns: condition, layer, position, responses, persona, other, and:

    - cosine: of plain centroids
    - squared_distance: unbiased, from products of different questions only, so that its expectation is 0 for equal
      centroids; it may be negative
    - relative_squared_distance: divided by the squared noise-free mean norm of the centroids of `pool` (source and
      bystanders), the scale on which `contraction` compares two conditions

    Null where undefined: with one question there is no pair of different questions.
    """
    rows: list[dict[str, object]] = []
    members = [states.personas.index(persona) for persona in pool]
    first, second = np.triu_indices(len(states.personas), 1)
    for layer in states.layers:
        cosine_PP, distance_PP, squared_norm = _pairs(states.gram(layer), members)
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            distance = distance_PP[one, other]
            rows.append(
                {
                    **states.labels(layer, kind),
                    "persona": states.personas[one],
                    "other": states.personas[other],
                    "cosine": finite(cosine_PP[one, other]),
                    "squared_distance": finite(distance),
                    "relative_squared_distance": finite(distance / squared_norm),
                }
            )
    return pl.DataFrame(rows, schema=PERSONA_PAIRS)


def geometry_table(
    states: States, source: str, bystanders: Sequence[str], kind: StateKind, *, seed: int, splits: int
) -> pl.DataFrame:
    """One row per layer.

    Over source and bystanders: mean_cosine, headroom (1 - mean_cosine), centred_cosine, scatter (mean unbiased squared
    distance of source and bystander; it may be negative, which means that no distance was detected), noise (persona x
    question interaction variance), mean_norm (of the states). Over all personas: reliability (split-half, over `splits`
    random splits), separability with its chance level, participation_ratio. Scatter and noise are in squared units of
    the hidden states. Null where undefined.
    """
    personas = check_personas(states, source, bystanders)
    rows: list[dict[str, object]] = []
    for layer in states.layers:
        products, gram_all = _products(states.gram(layer, personas)), states.gram(layer)
        cosine = _only(products.cosine)
        rows.append(
            {
                **states.labels(layer, kind),
                "mean_cosine": cosine,
                "headroom": None if cosine is None else 1.0 - cosine,
                "centred_cosine": _only(products.centred_cosine),
                "reliability": split_half_reliability(gram_all, splits, np.random.default_rng([seed, layer])),
                "separability": separability(gram_all),
                "chance": 1.0 / len(states.personas),
                "scatter": _only(products.scatter),
                "noise": _only(products.noise),
                "participation_ratio": _only(_products(gram_all).participation_ratio),
                "mean_norm": float(np.linalg.norm(states.layer(layer, personas), axis=2).mean()),
            }
        )
    return pl.DataFrame(rows, schema=GEOMETRY)


def headroom(table: pl.DataFrame) -> float | None:
    """Headroom of the registered aggregate: mean over the layers of one condition's `geometry_table`."""
    return _layer_mean(table, "headroom")


def reliability(table: pl.DataFrame) -> float | None:
    """Mean split-half reliability over the layers of one condition's `geometry_table`."""
    return _layer_mean(table, "reliability")


def _layer_mean(table: pl.DataFrame, column: str) -> float | None:
    """Mean over layers, None where one layer has no value: a mean over fewer layers is another quantity."""
    values = table[column].to_list()
    return None if not values or None in values else float(np.mean(values))


def _pairs(gram_PQPQ: Array, pool: Sequence[int]) -> tuple[Array, Array, float]:
    """Cosines and unbiased squared distances (P, P), and the squared mean norm of the pool, NaN where undefined."""
    kernels = PersonaKernels(Kernels.of_gram(gram_PQPQ[None])).collapsed()
    weights = QuestionWeights.equal(gram_PQPQ.shape[1])
    full_PP = Forms(kernels.kernels, weights).full[0, :, :, 0]
    # Minus the personas' mean, so that no digits are lost where distances are small relative to the norms.
    centred_PP = Forms(kernels.centred.kernels, weights).distinct[0, :, :, 0]
    pool_squares_P = Forms(kernels.squares, weights).distinct[0, pool, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        length_P = np.sqrt(np.diag(full_PP))
        cosine_PP: Array = full_PP / np.outer(length_P, length_P)
        norm = np.sqrt(np.where(pool_squares_P > 0, pool_squares_P, np.nan)).mean()
    square_P = np.diag(centred_PP)
    distance_PP: Array = square_P[:, None] + square_P[None, :] - 2 * centred_PP
    return cosine_PP, distance_PP, float(norm) ** 2


def _products(gram_PQPQ: Array) -> Products:
    """Products of one layer's centroids, every question with equal weight."""
    kernels = PersonaKernels(Kernels.of_gram(gram_PQPQ[None])).collapsed()
    return Products(kernels, QuestionWeights.equal(gram_PQPQ.shape[1]))


def _only(values_LB: Array) -> float | None:
    """The value at one layer and one weighting."""
    return finite(values_LB.item())


_LABELS = {"condition": pl.String, "layer": pl.Int64, "position": pl.String, "responses": pl.String}
COSINES = {
    **_LABELS,
    "persona": pl.String,
    **dict.fromkeys(("cosine", "crossvalidated_cosine", "per_question_mean", "per_question_sd"), pl.Float64),
}
PERSONA_PAIRS = {
    **_LABELS,
    "persona": pl.String,
    "other": pl.String,
    **dict.fromkeys(("cosine", "squared_distance", "relative_squared_distance"), pl.Float64),
}
GEOMETRY = {
    **_LABELS,
    **dict.fromkeys(
        (
            "mean_cosine",
            "headroom",
            "centred_cosine",
            "reliability",
            "separability",
            "chance",
            "scatter",
            "noise",
            "participation_ratio",
            "mean_norm",
        ),
        pl.Float64,
    ),
}
