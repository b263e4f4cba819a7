"""A study's estimates from counts: contrasts, seeds, lambdas, specifications, leave-one-out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl

from flatprobe.planner.contracts import EstimateSettings
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.cells import pair_cells
from flatprobe.statistics.leakage.estimators import leakage_contrast
from flatprobe.statistics.leakage.lambdas import leakage_over_lambdas
from flatprobe.statistics.leakage.leave_one_out import leave_one_out
from flatprobe.statistics.leakage.relative import relative_leakage
from flatprobe.statistics.leakage.seeds import over_seeds, seed_contrast
from flatprobe.statistics.leakage.specifications import specification_curve
from flatprobe.study.decision_schema import Decision
from flatprobe.study.panel import PRIMARY_POOL


def estimated(rule: Decision) -> list[tuple[str, str]]:
    """The study's contrasts, then those with a known answer."""
    with_known_answer = [(answer.treated, answer.control) for answer in rule.known_answers]
    return list(dict.fromkeys([*rule.contrasts, *with_known_answer]))


def coupled_at(cells: pl.DataFrame, lambda_: float) -> pl.DataFrame:
    """Cells of the couplings at one lambda."""
    return cells.filter(pl.col("coupled") & (pl.col("lambda") == lambda_))


def pools_of(settings: EstimateSettings, cells: pl.DataFrame) -> dict[str, Sequence[str]]:
    """The bystanders, and the named pools whose personas the study evaluates."""
    evaluated = set(cells["persona"])
    pools = {PRIMARY_POOL: settings.bystanders, **settings.pools}
    return {name: personas for name, personas in pools.items() if set(personas) <= evaluated}


def leakage_rows(settings: EstimateSettings, cells: pl.DataFrame, selected: float) -> Iterator[Estimate]:
    """Contrasts at the selected lambda for every pool, with counts summed over seeds.

    With several seeds also: training runs as a random factor, and the deciding contrast of each seed alone.
    """
    rule, at_lambda = settings.rule, coupled_at(cells, selected)
    for name, personas in pools_of(settings, at_lambda).items():
        for pair in estimated(rule):
            yield from _contrast(settings, over_seeds(at_lambda, *pair, personas), pair, name, personas)
    seeds = at_lambda["seed"].unique().sort().to_list()
    if len(seeds) < 2:
        return
    for treated, control in estimated(rule):
        yield from seed_contrast(
            at_lambda, treated, control, settings.bystanders, pool=PRIMARY_POOL, level=rule.behaviour.level,
            margin=rule.behaviour.margin, equivalence_margin=rule.kill.leakage,
        )  # fmt: skip
    deciding = (rule.treated, rule.control)
    for seed in seeds:
        of_seed = at_lambda.filter(pl.col("seed") == seed)
        for row in _contrast(settings, of_seed, deciding, PRIMARY_POOL, settings.bystanders):
            yield replace(row, seed=seed)


def _contrast(
    settings: EstimateSettings, cells: pl.DataFrame, pair: tuple[str, str], pool: str, personas: Sequence[str]
) -> list[Estimate]:
    """One contrast by every estimator, with tests against the rule's margins."""
    leg = settings.rule.behaviour
    return leakage_contrast(
        cells, *pair, personas, pool=pool, resamples=leg.resamples, seed=settings.seed, level=leg.level,
        contaminated=bool(set(personas) & set(settings.trained)), margin=leg.margin,
        equivalence_margin=settings.rule.kill.leakage,
    )  # fmt: skip


def relative(settings: EstimateSettings, cells: pl.DataFrame, selected: float) -> pl.DataFrame:
    """Leakage relative to the source's rate, for every condition that is compared."""
    rule = settings.rule
    return relative_leakage(
        coupled_at(cells, selected), estimated(rule), settings.source, settings.bystanders,
        resamples=rule.behaviour.resamples, seed=settings.seed, level=rule.behaviour.level,
    )  # fmt: skip


def over_lambdas(settings: EstimateSettings, cells: pl.DataFrame) -> list[Estimate]:
    """The registered estimator at every lambda of the deciding contrast, p adjusted for the choice by max-T and Holm.

    Empty if the two conditions share fewer than two lambdas.
    """
    rule = settings.rule
    coupled = cells.filter(pl.col("coupled"))
    shared = [set(coupled.filter(pl.col("condition") == name)["lambda"]) for name in (rule.treated, rule.control)]
    lambdas = sorted(shared[0] & shared[1])
    if len(lambdas) < 2:
        return []
    paired = {
        value: pair_cells(
            over_seeds(coupled_at(cells, value), rule.treated, rule.control, settings.bystanders),
            rule.treated, rule.control, settings.bystanders,
        )
        for value in lambdas
    }  # fmt: skip
    return [
        row
        for method in ("max-T", "Holm")
        for row in leakage_over_lambdas(
            paired, resamples=rule.behaviour.resamples, seed=settings.seed, level=rule.behaviour.level,
            method=method, treated=rule.treated, control=rule.control, pool=PRIMARY_POOL,
        )
    ]  # fmt: skip


def specifications(settings: EstimateSettings, cells: pl.DataFrame) -> pl.DataFrame:
    """The specification curve of every contrast."""
    pools: Mapping[str, Sequence[str]] = pools_of(settings, cells)
    tables = [
        specification_curve(
            cells, treated, control, pools, trained=settings.trained,
            resamples=settings.rule.behaviour.resamples, seed=settings.seed, level=settings.rule.behaviour.level,
        ).with_columns(treated=pl.lit(treated), control=pl.lit(control))
        for treated, control in settings.rule.contrasts
    ]  # fmt: skip
    return pl.concat(tables)


def without_one(settings: EstimateSettings, cells: pl.DataFrame, selected: float) -> pl.DataFrame:
    """The deciding contrast without each bystander and without each question."""
    rule = settings.rule
    at_lambda = over_seeds(coupled_at(cells, selected), rule.treated, rule.control, settings.bystanders)
    paired = pair_cells(at_lambda, rule.treated, rule.control, settings.bystanders)
    return leave_one_out(paired, resamples=rule.behaviour.resamples, seed=settings.seed, level=rule.behaviour.level)
