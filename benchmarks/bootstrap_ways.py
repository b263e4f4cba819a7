"""Other ways to the same bootstrap draws; `bootstraps.py` compares flatprobe with them.

All return bootstrap draws of the registered geometric contrasts (3 pairs of conditions, L layers, R resamples)
from h (C conditions, P personas with the source first, Q questions, L layers, D hidden), or of the leakage
difference (R,). Given the same seed they resample the same questions or cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flatprobe.statistics.bootstrap import draw_weights

Array = NDArray[Any]
PAIRS = ((0, 1), (0, 2), (2, 1))
"""Treated and control of the three contrasts, as indices of conditions."""
CENTROID_VALUES = 1_000_000
"""Values of resampled centroids held at once: 8 MB in double precision, about what a core caches."""


def materialised(h_CPQLD: Array, resamples: int, seed: int, dtype: type[np.floating[Any]]) -> Array:
    """The direct way: every resampled centroid by one matrix product per chunk, then its cosines."""
    w_RQ = draw_weights(h_CPQLD.shape[2], resamples, np.random.default_rng(seed)).astype(dtype)
    return _contrasts(_cosines(h_CPQLD, w_RQ))


def scipy_on_states(h_CPQLD: Array, resamples: int, seed: int) -> Array:
    """`scipy.stats.bootstrap` as in its manual: the states are the sample, vectorized, one resample at a time."""

    def statistic(sample: Array, axis: int) -> Array:
        centroids_CPLDR = sample.mean(axis=axis)
        products = (centroids_CPLDR * centroids_CPLDR[:, :1]).sum(axis=3)
        norms = np.sqrt((centroids_CPLDR**2).sum(axis=3))
        return _contrasts((products / (norms * norms[:, :1]))[:, 1:].mean(axis=1))

    result = stats.bootstrap(
        (h_CPQLD.astype(np.float64),),
        statistic,
        n_resamples=resamples,
        batch=1,
        vectorized=True,
        axis=2,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    draws: Array = result.bootstrap_distribution
    return draws


def scipy_on_indices(h_CPQLD: Array, resamples: int, seed: int) -> Array:
    """`scipy.stats.bootstrap` over the questions' indices, with the direct way as its statistic."""
    questions = h_CPQLD.shape[2]

    def statistic(indices: Array, axis: int) -> Array:
        del axis  # scipy moves it to the end
        w_RQ = (np.atleast_2d(indices)[:, :, None] == np.arange(questions)).sum(axis=1).astype(np.float64)
        draws = _contrasts(_cosines(h_CPQLD, w_RQ))
        return draws if indices.ndim > 1 else draws[..., 0]

    result = stats.bootstrap(
        (np.arange(questions),),
        statistic,
        n_resamples=resamples,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    draws: Array = result.bootstrap_distribution
    return draws


def _cosines(h_CPQLD: Array, w_RQ: Array) -> Array:
    """Mean over bystanders of the source's cosine, (C, L, R), from materialised centroids."""
    conditions, personas, questions, layers, hidden = h_CPQLD.shape
    chunk = max(1, CENTROID_VALUES // (personas * hidden))
    cosines = np.empty((conditions, layers, len(w_RQ)))
    for condition, layer in np.ndindex(conditions, layers):
        rows = np.moveaxis(h_CPQLD[condition, :, :, layer], 1, 0).reshape(questions, -1).astype(w_RQ.dtype)
        for start in range(0, len(w_RQ), chunk):
            w_BQ = w_RQ[start : start + chunk]
            centroids_BPD = (w_BQ @ rows / questions).reshape(len(w_BQ), personas, hidden)
            norms = np.sqrt(np.vecdot(centroids_BPD, centroids_BPD))
            products = np.vecdot(centroids_BPD, centroids_BPD[:, :1])
            by_bystander = (products / (norms * norms[:, :1]))[:, 1:]
            cosines[condition, layer, start : start + chunk] = by_bystander.mean(axis=1)
    return cosines


def _contrasts(cosines_CLR: Array) -> Array:
    return np.stack([cosines_CLR[treated] - cosines_CLR[control] for treated, control in PAIRS])


def index_loop(differences: Array, resamples: int, seed: int) -> Array:
    """The usual leakage bootstrap: a loop that draws indices and takes a mean."""
    generator, cells = np.random.default_rng(seed), len(differences)
    return np.array([differences[generator.integers(0, cells, size=cells)].mean() for _ in range(resamples)])


def scipy_on_cells(differences: Array, resamples: int, seed: int) -> Array:
    """`scipy.stats.bootstrap` on the cells' differences, vectorized, in batches of 16 MB."""
    result = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=2_000_000 // len(differences),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    draws: Array = result.bootstrap_distribution
    return draws
