"""Sensitivity of a geometric measure to one persona, to one question and to the choice of a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import Estimate, finite
from flatprobe.statistics.geometry.contrasts import blank_estimate
from flatprobe.statistics.geometry.grams import PairGrams
from flatprobe.statistics.geometry.inference import inferences, with_max_t
from flatprobe.statistics.geometry.measures import RATIOS
from flatprobe.statistics.geometry.states import StateKind
from flatprobe.statistics.geometry.values import Values, measure_values


def geometry_leave_one_out(grams: PairGrams, measures: Sequence[str] | None = None) -> pl.DataFrame:
    """These measures (default: all) without each bystander and without each question.

    Columns: kind (`persona` or `question`), left_out (its name), measure, layer (null: the mean over layers), estimate
    (as reported: ratios as ratios), difference (estimate minus that on all data, null where either is undefined). A
    single bystander or question cannot be left out and has no row.
    """
    rows: list[dict[str, object]] = []
    [by_measure] = measure_values([grams], resamples=0, seed=0, measures=measures)
    for name, values in by_measure.items():
        layers: list[tuple[int | None, Values]] = [
            (layer, values.at(index)) for index, layer in enumerate(grams.control.layers)
        ]
        for layer, value in (*layers, (None, values.over_layers())):
            for kind, units, left_out in (
                ("persona", grams.control.personas[1:], value.without_persona_LN[0]),
                ("question", grams.control.questions, value.without_question_LQ[0]),
            ):
                rows += _rows(kind, units, name, layer, float(value.estimate_L[0]), left_out)
    return pl.DataFrame(rows, schema=_SCHEMA)


def _rows(
    kind: str, units: Sequence[str], name: str, layer: int | None, on_all: float, left_out: Array
) -> list[dict[str, object]]:
    scale = np.exp if name in RATIOS else np.asarray
    estimates, reference = scale(left_out), float(scale(on_all))
    return [
        {
            "kind": kind,
            "left_out": unit,
            "measure": name,
            "layer": layer,
            "estimate": finite(estimate),
            "difference": finite(estimate - reference),
        }
        for unit, estimate in zip(units, estimates.tolist(), strict=False)  # no values where nothing is left out
    ]


_SCHEMA = {
    "kind": pl.String,
    "left_out": pl.String,
    "measure": pl.String,
    "layer": pl.Int64,
    "estimate": pl.Float64,
    "difference": pl.Float64,
}


def max_t_over_positions(
    grams: Mapping[StateKind, PairGrams], measure: str, *, resamples: int, seed: int, level: float, pool: str
) -> list[Estimate]:
    """One measure's `question_bootstrap` at every position and layer, with p-values adjusted for the choice.

    The draws are those of `gram_contrasts` with the same seed, so only `adjusted_p` and `family` differ. Raises
    UserError unless all positions have the same contrast, personas, questions and layers.
    """
    pairs = list(grams.values())
    contrasts = {
        (pair.treated.condition, pair.control.condition, pair.control.personas, pair.control.layers) for pair in pairs
    }
    if len(contrasts) != 1:
        raise UserError.one(
            "geometry.positions",
            "positions",
            "contrasts, personas or layers differ",
            "give the positions of one contrast",
        )
    estimates, values = [], []
    by_pair = measure_values(pairs, resamples=resamples, seed=seed, measures=[measure])
    for (kind, pair), by_measure in zip(grams.items(), by_pair, strict=True):
        blank = replace(blank_estimate(pair, kind, pool), quantity=measure)
        for index, layer in enumerate(pair.control.layers):
            values.append(by_measure[measure].at(index))
            estimates.append(inferences(replace(blank, layer=layer), values[-1], level)[0])
    return with_max_t(estimates, values, f"layers at {len(pairs)} positions")
