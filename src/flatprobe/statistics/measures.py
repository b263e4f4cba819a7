"""The geometric measures of one condition pair at one layer, for every row of question weights.

Each function maps `Products` to an array (B,). NaN means undefined (a non-positive variance or squared
distance); it becomes None with a reason at the border and never a number.
"""

from __future__ import annotations

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.gram import Products, centre_personas, mean_forms


def mean_cosine(products_BPP: Array) -> Array:
    """Mean over bystanders of the source's cosine, (B,); persona 0 is the source.

    With `Products.full_BPP` the registered cosine of centroids, with `distinct_BPP` the cross-validated one.
    Undefined where one squared norm is not positive.
    """
    mean_B: Array = bystander_cosines(products_BPP).mean(axis=1)
    return mean_B


def bystander_cosines(products_BPP: Array) -> Array:
    """The source's cosine with each other persona, (B, P - 1)."""
    squared_BP = np.einsum("bpp->bp", products_BPP)
    norms_BP = np.sqrt(np.where(squared_BP > 0, squared_BP, np.nan))
    cosines_BP: Array = products_BPP[:, 0, 1:] / (norms_BP[:, :1] * norms_BP[:, 1:])
    return cosines_BP


def centred_cosine(products_BPP: Array) -> Array:
    """As `mean_cosine` without the personas' grand mean; over all pairs its mean is near -1/(P - 1)."""
    centred = products_BPP - products_BPP.mean(axis=1, keepdims=True)
    return mean_cosine(centred - centred.mean(axis=2, keepdims=True))


def source_scatter(distinct_BPP: Array) -> Array:
    """Mean over source-bystander pairs of the unbiased squared distance, (B,); may come out non-positive."""
    own_BP = np.einsum("bpp->bp", distinct_BPP)
    scatter: Array = (own_BP[:, :1] + own_BP[:, 1:] - 2 * distinct_BPP[:, 0, 1:]).mean(axis=1)
    return scatter


def pair_scatter(distinct_BPP: Array) -> Array:
    """Mean over all persona pairs of the unbiased squared distance, (B,)."""
    personas = distinct_BPP.shape[1]
    own_B = np.einsum("bpp->b", distinct_BPP)
    scatter: Array = 2 * (personas * own_B - distinct_BPP.sum(axis=(1, 2))) / (personas * (personas - 1))
    return scatter


def log_ratio(treated_B: Array, control_B: Array) -> Array:
    """log(treated / control); undefined where either is not positive."""
    defined = (treated_B > 0) & (control_B > 0)
    safe_treated, safe_control = np.where(defined, treated_B, 1.0), np.where(defined, control_B, 1.0)
    return np.where(defined, np.log(safe_treated / safe_control), np.nan)


def translated_cosine(
    gram_PQPQ: Array, h_PQD: Array, move_QD: Array, control: Products, w_BQ: Array
) -> Array:
    """Mean cosine of the control's centroids after all are moved by t, (B,).

    `move_QD` is the mean over personas of treated minus control states; t is its weighted mean over
    questions. Works on the move itself, so that no move gives the control's cosine exactly.
    """
    personas, questions = gram_PQPQ.shape[:2]
    onto_PQQ = np.einsum("pqd,rd->pqr", h_PQD, move_QD, optimize=True)
    own_QQ = move_QD @ move_QD.T
    onto_BP = mean_forms(onto_PQQ.reshape(personas, questions, questions), w_BQ)
    own_B = mean_forms(own_QQ[None], w_BQ)[:, 0]
    moved = control.full_BPP + onto_BP[:, :, None] + onto_BP[:, None, :] + own_B[:, None, None]
    return mean_cosine(moved)


def compare(treated: Products, control: Products, translated_B: Array) -> dict[str, Array]:
    """Every measure of a contrast at one layer, on a scale whose null is 0 (ratios as logs).

    Positive means flatter for the cosines and for `contraction`; `scatter_ratio`, `pair_scatter_ratio`,
    `noise_ratio` and `norm_ratio` are logs of treated / control. Squared distances and variances are on
    states scaled to the control's mean norm, so a common shift that lengthens all states counts as
    contraction by 2 log `norm_ratio`; contraction_minus_noise = contraction + log noise ratio is free of that
    scale.
    """
    cosine = mean_cosine(treated.full_BPP) - mean_cosine(control.full_BPP)
    crossvalidated = mean_cosine(treated.distinct_BPP) - mean_cosine(control.distinct_BPP)
    translation = translated_B - mean_cosine(control.full_BPP)
    scale_B = (control.norm_B / treated.norm_B) ** 2
    scatter = log_ratio(scale_B * source_scatter(treated.distinct_BPP), source_scatter(control.distinct_BPP))
    pairs = log_ratio(scale_B * pair_scatter(treated.distinct_BPP), pair_scatter(control.distinct_BPP))
    noise = log_ratio(scale_B * treated.interaction_B, control.interaction_B)
    return {
        "cosine_difference": cosine,
        "crossvalidated_cosine_difference": crossvalidated,
        "translation_share": translation,
        "cosine_difference_minus_translation": cosine - translation,
        "noise_share": cosine - crossvalidated,
        "centred_cosine_difference": centred_cosine(treated.full_BPP) - centred_cosine(control.full_BPP),
        "contraction": 0.0 - scatter,
        "scatter_ratio": scatter,
        "pair_scatter_ratio": pairs,
        "noise_ratio": noise,
        "contraction_minus_noise": noise - scatter,
        "norm_ratio": log_ratio(treated.norm_B, control.norm_B),
    }


RATIOS = ("scatter_ratio", "pair_scatter_ratio", "noise_ratio", "norm_ratio")
"""Measures that are reported as ratios: exponentiated, with null 1."""


def participation_ratio(distinct_PP: Array) -> float | None:
    """Effective number of directions of the personas' differences: (tr M)^2 / tr(M^2), M the doubly centred
    cross-validated Gram matrix (P, P). None where its trace is not positive: no persona signal."""
    centred = centre_personas(distinct_PP[:, None, :, None])[:, 0, :, 0]
    trace = float(np.trace(centred))
    return trace**2 / float((centred**2).sum()) if trace > 0 else None
