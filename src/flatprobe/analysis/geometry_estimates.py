"""A study's estimates from hidden states: contrasts, seeds, positions, leave-one-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from flatprobe.analysis.leakage_estimates import estimated
from flatprobe.analysis.read_states import index_of, states_of, unfinished_questions
from flatprobe.planner.contracts import EstimateSettings
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.contrasts import GeometryOptions, geometry_contrasts
from flatprobe.statistics.geometry.grams import pair_grams
from flatprobe.statistics.geometry.sensitivity import geometry_leave_one_out, max_t_over_positions
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.statistics.inference import Options, by_t, one_way
from flatprobe.statistics.leakage.seeds import MINIMUM_SEEDS, SEED_SCOPES
from flatprobe.study.panel import PRIMARY_POOL

FINISHED = "finished answers only"
"""Pool of the estimates without questions that have an unfinished answer; the personas are the bystanders."""


def geometry_rows(settings: EstimateSettings, states: Mapping[str, States], kind: StateKind) -> list[Estimate]:
    """Every measure of every contrast, on one kind of states."""
    return geometry_contrasts(
        states,
        estimated(settings.rule),
        settings.source,
        settings.bystanders,
        geometry_options(settings, kind, PRIMARY_POOL),
    )


def finished_only(settings: EstimateSettings, inputs: Mapping[str, Path], kind: StateKind) -> list[Estimate]:
    """The deciding contrast on `finished_states`; empty if there are none."""
    states = finished_states(settings, inputs, kind)
    return [] if states is None else _deciding(settings, states, kind, pool=FINISHED)


def finished_states(
    settings: EstimateSettings, inputs: Mapping[str, Path], kind: StateKind
) -> dict[str, States] | None:
    """States of the deciding contrast without questions that have an unfinished answer of source or bystanders.

    None if every answer is finished, or if fewer than two questions would remain.
    """
    rule, pool = settings.rule, (settings.source, *settings.bystanders)
    unfinished = {
        question
        for entry in settings.entries
        if entry.condition in (rule.treated, rule.control)
        for question in unfinished_questions(index_of(inputs[entry.role]), kind.responses, pool)
    }
    states = states_of(inputs, settings.entries, kind)
    if not unfinished or len(states[rule.treated].questions) - len(unfinished) < 2:
        return None
    return {name: states[name].without(sorted(unfinished)) for name in (rule.treated, rule.control)}


def of_each_seed(settings: EstimateSettings, inputs: Mapping[str, Path], seeds: Sequence[int]) -> list[Estimate]:
    """With several seeds: the deciding contrast of each seed alone, and with seeds as a random factor."""
    if len(seeds) < 2:
        return []
    leg = settings.rule.geometry
    kind = StateKind(leg.responses, leg.position)
    rows = [
        replace(row, seed=seed)
        for seed in seeds
        for row in _deciding(settings, states_of(inputs, settings.entries, kind, seed), kind)
    ]
    return [*rows, *over_training_runs(rows, leg.level)]


def over_training_runs(rows: Sequence[Estimate], level: float) -> list[Estimate]:
    """`seed_t` of every measure over layers, from the estimates of S single seeds: S - 1 df.

    Ratios are averaged on the log scale. With fewer than 3 seeds, or with a seed on which the measure is undefined,
    there are no numbers and the note says why.
    """
    estimates = []
    aggregates = [row for row in rows if row.layer is None and row.estimator == "question_bootstrap"]
    for quantity in dict.fromkeys(row.quantity for row in aggregates):
        by_seed = [row for row in aggregates if row.quantity == quantity]
        blank = replace(
            by_seed[0], seed=None, estimator="seed_t", scope=SEED_SCOPES["seed_t"], estimate=None, standard_error=None,
            ci_low=None, ci_high=None, p_value=None, smallest_attainable_p=None, resamples=None,
            bootstrap_bias=None, outside_own_interval=None, adjusted_p=None, family=None, note=None,
        )  # fmt: skip
        values = [row.estimate for row in by_seed if row.estimate is not None]
        if len(by_seed) < MINIMUM_SEEDS:
            estimates.append(replace(blank, note=f"needs at least {MINIMUM_SEEDS} seeds: these checkpoints"))
        elif len(values) < len(by_seed):
            estimates.append(replace(blank, note="undefined for a seed"))
        else:
            estimates.append(_seed_t(blank, np.array(values), level))
    return estimates


def over_positions(
    settings: EstimateSettings, inputs: Mapping[str, Path], kinds: Sequence[StateKind]
) -> list[Estimate]:
    """The deciding measure at every position and layer, p adjusted for the choice among them."""
    rule, leg = settings.rule, settings.rule.geometry
    grams = {}
    for kind in kinds:
        if kind.responses == leg.responses:
            states = states_of(inputs, settings.entries, kind)
            pair = [(rule.treated, rule.control)]
            [grams[kind]] = pair_grams(states, pair, settings.source, settings.bystanders, parts=())
    return max_t_over_positions(
        grams,
        leg.measure,
        resamples=settings.geometry_resamples,
        seed=settings.seed,
        level=leg.level,
        pool=PRIMARY_POOL,
    )


def without_one(settings: EstimateSettings, inputs: Mapping[str, Path]) -> pl.DataFrame:
    """The deciding measure without each bystander and without each question."""
    rule, leg = settings.rule, settings.rule.geometry
    states = states_of(inputs, settings.entries, StateKind(leg.responses, leg.position))
    pair = [(rule.treated, rule.control)]
    [grams] = pair_grams(states, pair, settings.source, settings.bystanders, parts=())
    return geometry_leave_one_out(grams, [leg.measure])


def _deciding(
    settings: EstimateSettings, states: Mapping[str, States], kind: StateKind, pool: str = PRIMARY_POOL
) -> list[Estimate]:
    pairs = [(settings.rule.treated, settings.rule.control)]
    return geometry_contrasts(
        states, pairs, settings.source, settings.bystanders, geometry_options(settings, kind, pool)
    )


def geometry_options(settings: EstimateSettings, kind: StateKind, pool: str) -> GeometryOptions:
    return GeometryOptions(
        kind=kind,
        pool=pool,
        resamples=settings.geometry_resamples,
        seed=settings.seed,
        level=settings.rule.geometry.level,
    )


def _seed_t(blank: Estimate, values: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> Estimate:
    from flatprobe.statistics.geometry.measures import RATIOS

    is_ratio = blank.quantity in RATIOS
    scaled = np.log(values) if is_ratio else values
    row = by_t(blank, float(scaled.mean()), one_way(scaled), Options(1, level))
    if not is_ratio:
        return row
    ends = (row.estimate, row.ci_low, row.ci_high)
    value, low, high = (None if end is None else float(np.exp(end)) for end in ends)
    return replace(row, estimate=value, ci_low=low, ci_high=high)
