"""The deciding contrast of states as tidy rows, with the values in both conditions beside the difference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from flatprobe.analysis.geometry_estimates import FINISHED, finished_states, geometry_options
from flatprobe.analysis.read_states import index_of, kinds, states_of
from flatprobe.planner.contracts import EstimateSettings
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.condition_values import ByLayer, condition_values
from flatprobe.statistics.geometry.contrasts import gram_contrasts
from flatprobe.statistics.geometry.grams import PARTS, ConditionGrams, PairGrams, Part, pair_grams
from flatprobe.statistics.geometry.measures import RATIOS
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.study.panel import PRIMARY_POOL

PER_PERSONA = ("cosine_difference", "crossvalidated_cosine_difference")
DESCRIBED = ("headroom", "reliability", "separability", "mean_norm")
"""Columns of a geometry table that are reported without an interval."""
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
    """The value in the control, where the measure compares two values."""
    treated: float | None
    """The value in the treated condition, in the same units."""
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


def compare(
    settings: EstimateSettings, inputs: Mapping[str, Path], estimates: Sequence[Estimate], geometry: pl.DataFrame
) -> dict[str, Any]:
    """`rows`; `identical`: whether all states of both conditions are equal; `unfinished` answers by condition.

    Args:
        estimates: those of the deciding contrast on every kind of states; others are left out.
        geometry: the geometry tables of both conditions.
    """
    rule = settings.rule
    rows: list[Row] = []
    identical = True
    for kind in kinds(inputs, settings.entries):
        states = states_of(inputs, settings.entries, kind)
        treated, control = states[rule.treated], states[rule.control]
        identical = identical and bool(np.array_equal(treated.h_PQLD, control.h_PQLD))
        of_kind = [row for row in estimates if (row.responses, row.position, row.seed) == (*kind, None)]
        for pool, sides in ((PRIMARY_POOL, states), (FINISHED, finished_states(settings, inputs, kind))):
            if sides is not None:
                rows += _pool_rows(settings, sides, [row for row in of_kind if row.pool == pool])
        rows += _persona_rows(settings, states, kind)
        rows += _described_rows(settings, geometry, kind, len(control.questions))
    indices = {entry.condition: index_of(inputs[entry.role]) for entry in settings.entries}
    return {
        "identical": identical,
        "unfinished": {name: len(indices[name]["unfinished"]) for name in (rule.control, rule.treated)},
        "unfinished_fixed": len(indices[rule.control]["unfinished_fixed"]),
        "rows": [asdict(row) for row in rows],
    }


def _pool_rows(
    settings: EstimateSettings, states: Mapping[str, States], estimates: Sequence[Estimate]
) -> Iterator[Row]:
    """Every measure over the pool with the values that it compares."""
    rule = settings.rule
    values = condition_values(_grams(settings, states, settings.bystanders))
    for estimate in estimates:
        if (estimate.treated, estimate.control) == (rule.treated, rule.control):
            yield _row(estimate, values.get(estimate.quantity, {}))


def _persona_rows(settings: EstimateSettings, states: Mapping[str, States], kind: StateKind) -> Iterator[Row]:
    """The source's cosine with every other persona, references too, with a jackknife over questions."""
    others = [name for name in states[settings.rule.control].personas if name != settings.source]
    grams = _grams(settings, states, others, parts=())  # cosines need no other part
    singles = [_source_and(grams, index) for index in range(1, 1 + len(others))]
    # One resample: the jackknife needs none, and the bootstrap is dropped.
    options = geometry_options(settings, kind, PRIMARY_POOL)
    estimates = gram_contrasts(singles, replace(options, resamples=1, measures=PER_PERSONA))
    per_single = len(estimates) // len(singles)
    for number, (persona, single) in enumerate(zip(others, singles, strict=True)):
        values = condition_values(single, PER_PERSONA)
        for estimate in estimates[number * per_single : (number + 1) * per_single]:
            if estimate.estimator == _JACKKNIFE:
                yield _row(estimate, values[estimate.quantity], persona)


def _described_rows(
    settings: EstimateSettings, geometry: pl.DataFrame, kind: StateKind, questions: int
) -> Iterator[Row]:
    """What describes a condition and not a change; no intervals."""
    table = geometry.filter(responses=kind.responses, position=kind.position).sort("layer")
    control, treated = (
        table.filter(condition=name).to_dicts() for name in (settings.rule.control, settings.rule.treated)
    )
    for name in DESCRIBED:
        values = [(one["layer"], one[name], other[name]) for one, other in zip(control, treated, strict=True)]
        means = [_mean([row[side] for row in values]) for side in (1, 2)]
        for layer, before, after in (*values, (None, means[0], means[1])):
            yield Row(
                measure=name, layer=layer, position=kind.position, responses=kind.responses, pool=PRIMARY_POOL,
                persona=None, base=before, treated=after,
                difference=None if before is None or after is None else after - before,
                effect="difference", ci_low=None, ci_high=None, p_value=None, adjusted_p=None, estimator=None,
                scope=None, n_personas=len(settings.bystanders), n_questions=questions,
                note="a description: no interval",
            )  # fmt: skip


def _row(estimate: Estimate, values: ByLayer, persona: str | None = None) -> Row:
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


def _grams(
    settings: EstimateSettings, states: Mapping[str, States], others: Sequence[str], parts: Collection[Part] = PARTS
) -> PairGrams:
    pair = (settings.rule.treated, settings.rule.control)
    [grams] = pair_grams(states, [pair], settings.source, others, parts)
    return grams


def _mean(values: Sequence[float | None]) -> float | None:
    """None if a layer has no value: a mean over fewer layers is another quantity."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if values and len(defined) == len(values) else None
