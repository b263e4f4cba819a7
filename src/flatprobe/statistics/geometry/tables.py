"""Descriptive tables of one condition's geometry: a row per persona and layer, and a row per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.kernels import Kernels, QuestionWeights
from flatprobe.statistics.geometry.products import Panel, Products, bystander_cosines
from flatprobe.statistics.geometry.reliability import separability, split_half_reliability
from flatprobe.statistics.geometry.states import States, check_personas

SPLITS = 100
"""Random halves behind a split-half reliability; its Monte Carlo error is then far below its third digit's
worth."""


def cosine_table(states: States, source: str, *, position: str, responses: str) -> pl.DataFrame:
    """The source's cosine with every other persona, per layer.

    Columns: condition, layer, position, responses, persona, cosine (of centroids), crossvalidated_cosine
    (null where undefined), per_question_mean and per_question_sd (of the cosines of the states on the same
    question; the SD, over questions, is null with one question).
    """
    others = [persona for persona in states.personas if persona != source]
    pool = check_personas(states, source, others)
    rows: list[dict[str, object]] = []
    for layer in states.layers:
        h_PQD = states.layer(layer, pool)
        products = _products(states.gram(layer, pool))
        cosines = bystander_cosines(products.source.full, products.own.full)[0, :, 0]
        crossvalidated = bystander_cosines(products.source.distinct, products.own.distinct)[0, :, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            unit_PQD = h_PQD / np.linalg.norm(h_PQD, axis=2, keepdims=True)
            per_question_PQ = np.einsum("qd,pqd->pq", unit_PQD[0], unit_PQD[1:])
        for index, persona in enumerate(others):
            by_question = per_question_PQ[index]
            rows.append(
                {
                    "condition": states.condition,
                    "layer": layer,
                    "position": position,
                    "responses": responses,
                    "persona": persona,
                    "cosine": _known(cosines[index]),
                    "crossvalidated_cosine": _known(crossvalidated[index]),
                    "per_question_mean": _known(by_question.mean()),
                    "per_question_sd": _known(by_question.std(ddof=1)) if len(by_question) > 1 else None,
                }
            )
    return pl.DataFrame(rows, schema=_COSINE_SCHEMA)


def geometry_table(
    states: States,
    source: str,
    bystanders: Sequence[str],
    *,
    position: str,
    responses: str,
    seed: int,
    splits: int = SPLITS,
) -> pl.DataFrame:
    """One row per layer.

    Over source and bystanders: mean_cosine, headroom (1 - mean_cosine), centred_cosine, scatter (mean
    unbiased squared distance source-bystander; negative is possible and means none was found), noise (persona
    x question interaction variance), mean_norm (of the states). Over all personas: reliability (split-half),
    separability with its chance level, participation_ratio. Scatter and noise are in squared units of the
    hidden states; what is undefined is null.
    """
    pool = check_personas(states, source, bystanders)
    rows: list[dict[str, object]] = []
    for layer in states.layers:
        products, gram_all = _products(states.gram(layer, pool)), states.gram(layer)
        cosine = _value(products.cosine)
        rows.append(
            {
                "condition": states.condition,
                "layer": layer,
                "position": position,
                "responses": responses,
                "mean_cosine": cosine,
                "headroom": None if cosine is None else 1.0 - cosine,
                "centred_cosine": _value(products.centred_cosine),
                "reliability": split_half_reliability(gram_all, splits, np.random.default_rng([seed, layer])),
                "separability": separability(gram_all),
                "chance": 1.0 / len(states.personas),
                "scatter": _value(products.scatter),
                "noise": _value(products.noise),
                "participation_ratio": _value(_products(gram_all).participation_ratio),
                "mean_norm": float(np.linalg.norm(states.layer(layer, pool), axis=2).mean()),
            }
        )
    return pl.DataFrame(rows, schema=_GEOMETRY_SCHEMA)


def headroom(table: pl.DataFrame) -> float | None:
    """Headroom of the registered aggregate: mean over the rows (layers) of one condition's
    `geometry_table`."""
    return _layer_mean(table, "headroom")


def reliability(table: pl.DataFrame) -> float | None:
    """Mean split-half reliability over the rows (layers) of one condition's `geometry_table`."""
    return _layer_mean(table, "reliability")


def _layer_mean(table: pl.DataFrame, column: str) -> float | None:
    """Mean over layers, None where one layer has no value: a mean over fewer layers is another quantity."""
    values = table[column].to_list()
    return None if not values or None in values else float(np.mean(values))


def _products(gram_PQPQ: Array) -> Products:
    """Products of one layer's centroids, every question with equal weight."""
    panel = Panel(Kernels.of_gram(gram_PQPQ[None])).collapsed()
    return Products(panel, QuestionWeights.equal(gram_PQPQ.shape[1]))


def _value(level_LB: Array) -> float | None:
    """The only entry of a level of one layer at one weighting."""
    return _known(level_LB.item())


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


_HEAD = {"condition": pl.String, "layer": pl.Int64, "position": pl.String, "responses": pl.String}
_COSINE_SCHEMA = {
    **_HEAD,
    "persona": pl.String,
    **dict.fromkeys(("cosine", "crossvalidated_cosine", "per_question_mean", "per_question_sd"), pl.Float64),
}
_GEOMETRY_SCHEMA = {
    **_HEAD,
    **dict.fromkeys(
        (
            "mean_cosine", "headroom", "centred_cosine", "reliability", "separability", "chance", "scatter",
            "noise", "participation_ratio", "mean_norm",
        ),
        pl.Float64,
    ),
}  # fmt: skip
