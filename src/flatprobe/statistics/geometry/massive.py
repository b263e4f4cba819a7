"""Massive activations: the few hidden dimensions that are so large that they alone can make a cosine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.states import States

TOP = 3
"""Dimensions that the trimmed cosine leaves out."""


def top_dimensions(h_PQD: Array, seeds: int = 1, count: int = TOP) -> NDArray[np.intp]:
    """Indices into the hidden axis of the `count` dimensions with the largest mean |state|, largest first.

    With several seeds side by side a dimension's mean is over seeds too, and it is returned once per seed, so
    `seeds * count` indices come back (all of them where the hidden size is smaller).
    """
    size_SD = np.abs(h_PQD).mean(axis=(0, 1)).reshape(seeds, -1)
    hidden = size_SD.shape[1]
    top = np.argsort(-size_SD.mean(axis=0), kind="stable")[:count]
    indices: NDArray[np.intp] = (top + hidden * np.arange(seeds)[:, None]).ravel()
    return indices


def massive_activation_table(
    states: States, personas: Sequence[str], *, position: str, responses: str, count: int = TOP
) -> pl.DataFrame:
    """The `count` largest hidden dimensions per layer, over the personas named and all questions.

    Columns: condition, layer, position, responses, rank (from 1), dimension (0-based), mean_absolute (of the
    activation), share_of_squared_norm (of all states together), ratio_to_median (mean_absolute over the median
    |activation| of the layer; null where that is 0). A layer without massive activations has shares near
    1 / hidden size and ratios of a few units.
    """
    rows: list[dict[str, object]] = []
    for layer in states.layers:
        h_PQD = states.layer(layer, personas)
        absolute_MD = np.abs(h_PQD).reshape(-1, h_PQD.shape[2] // states.seeds)
        square_D, median = (absolute_MD**2).sum(axis=0), float(np.median(absolute_MD))
        total = float(square_D.sum())
        top = top_dimensions(h_PQD, states.seeds, count)[: min(count, absolute_MD.shape[1])]
        for rank, dimension in enumerate(top.tolist(), start=1):
            mean = float(absolute_MD[:, dimension].mean())
            rows.append(
                {
                    "condition": states.condition,
                    "layer": layer,
                    "position": position,
                    "responses": responses,
                    "rank": rank,
                    "dimension": dimension,
                    "mean_absolute": mean,
                    "share_of_squared_norm": float(square_D[dimension]) / total if total > 0 else None,
                    "ratio_to_median": mean / median if median > 0 else None,
                }
            )
    return pl.DataFrame(rows, schema=_SCHEMA)


_SCHEMA = {
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
