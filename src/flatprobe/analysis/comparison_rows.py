"""One tidy table of a comparison of two checkpoints: a row per measure, layer, position, responses and persona."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.condition_values import ByLayer, condition_values
from flatprobe.statistics.geometry.contrasts import GeometryOptions, gram_contrasts
from flatprobe.statistics.geometry.grams import ConditionGrams, PairGrams
from flatprobe.statistics.geometry.measures import RATIOS
from flatprobe.study.panel import PRIMARY_POOL

FINISHED = "bystanders, finished answers only"
PER_PERSONA = ("cosine_difference", "crossvalidated_cosine_difference")
DESCRIBED = ("headroom", "reliability", "separability", "mean_norm")
"""Columns of a geometry table that are reported as levels, without an interval."""
_JACKKNIFE = "question_jackknife_t"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of the comparison; what is unknown is None."""

    measure: str
    """A geometric measure, or a description: `headroom`, `reliability`, `separability`, `mean_norm`."""
    layer: int | None
    """0-based decoder block; None is the mean over layers."""
    position: str
    responses: str
    """Whose answers the states are read on: `own` or `fixed`."""
    pool: str
    """The set of personas averaged over."""
    persona: str | None
    """The one persona whose cosine with the source it is; None for the pool."""
    base: float | None
    """The level in the base, where the measure compares two levels."""
    treated: float | None
    """The level in the treated checkpoint, in the same units."""
    difference: float | None
    """treated - base, or treated / base where `effect` is `ratio`."""
    effect: Literal["difference", "ratio"]
    """What `difference` holds: no change is 0 for a difference and 1 for a ratio."""
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    """Two-sided p of no change."""
    adjusted_p: float | None
    """p adjusted for looking at several layers (max-T)."""
    estimator: str | None
    """Method behind interval and p; None for a description."""
    scope: str | None
    """What interval and p generalise to."""
    n_personas: int
    n_questions: int
    note: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pool_rows(grams: PairGrams, estimates: Iterable[Estimate]) -> list[Row]:
    """The estimates of every measure over the pool, with the two values that each compares."""
    values = condition_values(grams)
    return [_row(estimate, values.get(estimate.quantity, {})) for estimate in estimates]


def persona_rows(grams: PairGrams, options: GeometryOptions) -> list[Row]:
    """The source's cosine with every other persona of the Gram matrices, with its jackknife over questions."""
    others = range(1, len(grams.control.personas))
    singles = [_source_and(grams, index) for index in others]
    # One resample, because the jackknife needs none.
    estimates = gram_contrasts(singles, replace(options, resamples=1, measures=PER_PERSONA))
    per_single = len(estimates) // len(singles)
    rows = []
    for number, single in enumerate(singles):
        values, persona = condition_values(single, PER_PERSONA), single.control.personas[1]
        for estimate in estimates[number * per_single : (number + 1) * per_single]:
            if estimate.estimator == _JACKKNIFE:
                rows.append(_row(estimate, values[estimate.quantity], persona))
    return rows


def described_rows(base: pl.DataFrame, treated: pl.DataFrame, *, personas: int, questions: int) -> list[Row]:
    """What describes a checkpoint rather than a change, from one geometry table of each; no intervals.

    `personas` and `questions` are the numbers behind the tables.
    """
    sides = [table.sort("layer").to_dicts() for table in (base, treated)]
    rows = []
    for name in DESCRIBED:
        pairs = [(one["layer"], one[name], other[name]) for one, other in zip(*sides, strict=True)]
        means = [_mean([pair[side] for pair in pairs]) for side in (1, 2)]
        for layer, before, after in (*pairs, (None, means[0], means[1])):
            rows.append(
                Row(
                    measure=name, layer=layer, position=sides[0][0]["position"],
                    responses=sides[0][0]["responses"], pool=PRIMARY_POOL, persona=None, base=before,
                    treated=after, difference=None if before is None or after is None else after - before,
                    effect="difference", ci_low=None, ci_high=None, p_value=None, adjusted_p=None,
                    estimator=None, scope=None, n_personas=personas, n_questions=questions,
                    note="a description: no interval",
                )
            )  # fmt: skip
    return rows


def _row(
    estimate: Estimate,
    values: ByLayer,
    persona: str | None = None,
) -> Row:
    base, treated = values.get(estimate.layer, (None, None))
    assert estimate.position is not None and estimate.responses is not None
    assert estimate.n_personas is not None and estimate.n_questions is not None
    return Row(
        measure=estimate.quantity, layer=estimate.layer, position=estimate.position,
        responses=estimate.responses, pool=estimate.pool, persona=persona, base=base, treated=treated,
        difference=estimate.estimate, effect="ratio" if estimate.quantity in RATIOS else "difference",
        ci_low=estimate.ci_low, ci_high=estimate.ci_high, p_value=estimate.p_value,
        adjusted_p=estimate.adjusted_p, estimator=estimate.estimator,
        scope=estimate.scope, n_personas=estimate.n_personas, n_questions=estimate.n_questions,
        note=estimate.note,
    )  # fmt: skip


def _source_and(grams: PairGrams, index: int) -> PairGrams:
    """The two conditions' own Gram matrices of the source and one other persona."""
    rows = np.array([0, index])

    def cut(gram_LPQPQ: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return gram_LPQPQ[:, rows][:, :, :, rows]

    def side(condition: ConditionGrams) -> ConditionGrams:
        personas = (condition.personas[0], condition.personas[index])
        return ConditionGrams(
            condition.condition, personas, condition.questions, condition.layers, cut(condition.gram_LPQPQ)
        )

    return PairGrams(side(grams.treated), side(grams.control), None, None, None)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a layer has no value: a mean over fewer layers is another quantity."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if values and len(known) == len(values) else None
