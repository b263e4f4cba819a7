"""Massive activations: the few hidden dimensions so large that they alone can determine a cosine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.states import StateKind, States

TRIMMED_DIMENSIONS = 3
"""Dimensions that the trimmed cosine leaves out, and rows per layer of `massive_activation_table`."""


def top_dimensions(h_PQD: Array, seeds: int, count: int) -> NDArray[np.intp]:
    """Indices into the hidden axis of the `count` dimensions with the largest mean |state|, largest first.

    With several seeds side by side the mean is over seeds too, and each dimension is returned once per seed: `seeds *
    count` indices, or all of them if the hidden size is smaller.
    """
    size_SD = np.abs(h_PQD).mean(axis=(0, 1)).reshape(seeds, -1)
    hidden = size_SD.shape[1]
    top = np.argsort(-size_SD.mean(axis=0), kind="stable")[:count]
    indices: NDArray[np.intp] = (top + hidden * np.arange(seeds)[:, None]).ravel()
    return indices


def massive_activation_table(states: States, personas: Sequence[str], kind: StateKind) -> pl.DataFrame:
    """The `TRIMMED_DIMENSIONS` largest hidden dimensions per layer, over these personas and all questions.

    Columns: condition, layer, position, responses, rank (from 1), dimension (0-based), mean_absolute (mean
    |activation|), share_of_squared_norm (of all states together), ratio_to_median (mean_absolute over the median
    |activation| of the layer; null where that is 0). A layer without massive activations has shares near 1 / hidden
    size and ratios of a few units.
    """
    rows: list[dict[str, object]] = []
    for layer in states.layers:
        h_PQD = states.layer(layer, personas)
        absolute_MD = np.abs(h_PQD).reshape(-1, h_PQD.shape[2] // states.seeds)
        square_D, median = (absolute_MD**2).sum(axis=0), float(np.median(absolute_MD))
        total = float(square_D.sum())
        top = top_dimensions(h_PQD, states.seeds, TRIMMED_DIMENSIONS)
        one_seed = top[: min(TRIMMED_DIMENSIONS, absolute_MD.shape[1])]
        for rank, dimension in enumerate(one_seed.tolist(), start=1):
            mean = float(absolute_MD[:, dimension].mean())
            rows.append(
                {
                    **states.labels(layer, kind),
                    "rank": rank,
                    "dimension": dimension,
                    "mean_absolute": mean,
                    "share_of_squared_norm": float(square_D[dimension]) / total if total > 0 else None,
                    "ratio_to_median": mean / median if median > 0 else None,
                }
            )
    return pl.DataFrame(rows, schema=MASSIVE)


MASSIVE = {
    "condition": pl.String,
    "layer": pl.Int64,
    "position": pl.String,
    "responses": pl.String,
    "rank": pl.Int64,
    "dimension": pl.Int64,
    "mean_absolute": pl.Float64,
    "share_of_squared_norm": pl.Float64,
    "ratio_to_median": pl.Float64,
}
