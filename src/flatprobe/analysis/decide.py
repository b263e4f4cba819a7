"""Stage: the registered rule applied to the deciding contrast and to contrasts with a known answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from flatprobe.analysis.gate_statistics import (
    geometry_gates,
    manipulation_gates,
    readout_gates,
    source_rate,
    study_gates,
    training_gates,
    unfinished_gates,
)
from flatprobe.analysis.manipulation import Rise, breadths_of, own_rise
from flatprobe.decision.evidence import Contrast, Seeds, behavioural_evidence, geometric_evidence
from flatprobe.decision.gates import Gate, SourceReason, low_source_rate_reason
from flatprobe.decision.known_answers import for_each_leg, lead_is_lost, outcome
from flatprobe.decision.rule import decide
from flatprobe.decision.verdict import Verdict
from flatprobe.facts import StageFacts, VerdictFacts, read_stage_facts, write_facts
from flatprobe.planner.contracts import DecideSettings
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.tables import headroom
from flatprobe.study.decision_schema import KnownAnswer
from flatprobe.study.panel import PRIMARY_POOL


def decide_study(settings: DecideSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Inputs: `tables`, `estimates`. Output: verdict.json."""
    rule, results = settings.rule, _read(inputs["tables"], inputs["estimates"])
    verdict = _decided(settings, results, known=False)
    known = []
    for answer in rule.known_answers:
        about = _about(settings, answer)
        one, exchanged = (_decided(about, results, known=True, exchanged=way) for way in (False, True))
        treated, control = (_leads(settings, results, arm) for arm in (answer.treated, answer.control))
        lost = lead_is_lost(treated, control, rule.gates.level)
        known.append(outcome(answer, one, exchanged, about.rule, lead_lost=lost))
    breadths = breadths_of(results.log_odds, settings.held_out_from, rule)
    verdict = replace(verdict, numbers=replace(verdict.numbers, manipulation=breadths), known_answers=tuple(known))
    (output / "verdict.json").write_text(json.dumps(verdict.to_json(), indent=1))
    write_facts(output, VerdictFacts(headline=verdict.headline()))


@dataclass(frozen=True)
class _Results:
    """What a decision reads, for every contrast."""

    tables: Path
    estimates: Sequence[Estimate]
    stages: Sequence[StageFacts]
    selected: float
    """The selected lambda."""
    rates: pl.DataFrame
    """Of the couplings at the selected lambda."""
    geometry: pl.DataFrame
    log_odds: pl.DataFrame
    """Of the manipulation check; empty if the study has no texts for it."""


def _read(tables: Path, estimates: Path) -> _Results:
    selected = float(json.loads((tables / "selection.json").read_text())["selected"])
    rates = pl.read_parquet(tables / "tables" / "rates.parquet")
    rows = json.loads((estimates / "estimates.json").read_text())
    return _Results(
        tables=tables,
        estimates=[Estimate.from_json(row) for row in rows],
        stages=read_stage_facts(tables / "facts-by-stage.json"),
        selected=selected,
        rates=rates.filter(pl.col("coupled") & (pl.col("lambda") == selected)),
        geometry=pl.read_parquet(estimates / "geometry.parquet"),
        log_odds=_log_odds(tables),
    )


def _about(settings: DecideSettings, known: KnownAnswer) -> DecideSettings:
    """The same rule about another pair of conditions, without a benign one."""
    other = {"treated": known.treated, "control": known.control, "benign": None, "known_answers": ()}
    return settings.model_copy(update={"rule": settings.rule.model_copy(update=other)})


def _decided(settings: DecideSettings, results: _Results, *, known: bool, exchanged: bool = False) -> Verdict:
    """The rule applied to its contrast.

    `known`: the contrast has a known answer; then each leg is judged alone, and there are no estimates of single seeds.
    `exchanged`: treated and control are exchanged, under the same gates.
    """
    rule, tables = settings.rule, results.tables
    geometry = results.geometry.filter(
        (pl.col("position") == rule.geometry.position)
        & (pl.col("responses") == rule.geometry.responses)
        & (pl.col("condition") == rule.control)
    )
    numbers = (results.estimates, results.rates, geometry)
    evidence = [_evidence(settings, *numbers, pair) for pair in rule.contrasts]
    gates = [
        *study_gates(settings, tables / "tables", evidence[0]),
        *training_gates(settings, results.stages, results.selected),
        *readout_gates(settings, results.rates),
        *geometry_gates(rule, geometry),
        *unfinished_gates(rule, results.stages),
        *manipulation_gates(rule, _own_rise(settings, results, known=known)),
    ]
    if known:
        gates = for_each_leg(gates)
    seeds = Seeds(count=results.rates["seed"].n_unique())
    return decide(
        rule, evidence[0].exchanged() if exchanged else evidence[0], gates,
        treated_benign=evidence[1] if len(evidence) > 1 else None,
        benign_control=evidence[2] if len(evidence) > 2 else None,
        seeds=_seeds(settings, *numbers, gates, evidence[0]) if not known else seeds,
        source_reason=_source_reason(settings, tables, results.selected),
        source=settings.source, registered=settings.registered, smoke=settings.smoke,
    )  # fmt: skip


def _evidence(
    settings: DecideSettings,
    estimates: Sequence[Estimate],
    rates: pl.DataFrame,
    geometry: pl.DataFrame,
    pair: tuple[str, str],
    seed: int | None = None,
) -> Contrast:
    """Both probes' evidence on one contrast, from all seeds (None) or from one."""
    treated, control = pair
    contrast = f"{treated} - {control}"
    main = [row for row in estimates if row.pool == PRIMARY_POOL and row.seed == seed]
    return Contrast(
        geometric_evidence(main, settings.rule, contrast, headroom(geometry)),
        behavioural_evidence(
            main, settings.rule, contrast, PRIMARY_POOL,
            source_rate_treated=source_rate(settings, rates, treated),
            source_rate_control=source_rate(settings, rates, control),
        ),
    )  # fmt: skip


def _seeds(
    settings: DecideSettings,
    estimates: Sequence[Estimate],
    rates: pl.DataFrame,
    geometry: pl.DataFrame,
    gates: Sequence[Gate],
    pooled: Contrast,
) -> Seeds:
    """The number of seeds, and whether each alone gives the same legs as all together."""
    seeds = rates["seed"].unique().sort().to_list()
    if len(seeds) < 2:
        return Seeds(count=len(seeds))
    rule = settings.rule
    contrasts_ = [
        _evidence(settings, estimates, rates.filter(pl.col("seed") == seed), geometry, rule.contrasts[0], seed)
        for seed in seeds
    ]
    verdicts = [decide(rule, contrast, gates) for contrast in (pooled, *contrasts_)]
    legs = {(verdict.geometric_leg, verdict.behavioural_leg) for verdict in verdicts}
    return Seeds(count=len(seeds), agree=len(legs) == 1)


def _log_odds(tables: Path) -> pl.DataFrame:
    path = tables / "tables" / "manipulation.parquet"
    if path.is_file():
        return pl.read_parquet(path)
    texts = dict.fromkeys(("condition", "set", "held_out_from", "id", "prompt"), pl.String)
    return pl.DataFrame(schema={**texts, "log_odds": pl.Float64})


def _own_rise(settings: DecideSettings, results: _Results, *, known: bool) -> Rise | None:
    """The treated condition's in-domain rise; None for a known answer about two trainings on the same rows."""
    rule, held_out = settings.rule, settings.held_out_from
    if known and held_out.get(rule.treated) == held_out.get(rule.control):
        return None
    return own_rise(results.log_odds, held_out, rule.treated, rule.control, rule.gates.level)


def _source_reason(settings: DecideSettings, tables: Path, selected: float) -> SourceReason | None:
    """The meaning of a low source rate in the treated condition, from teacher-forced separability."""
    log_p = _by_question(settings, tables, selected, settings.rule.treated)
    source, negative, before = (log_p[name].to_list() for name in ("source", "negative", "before"))
    return low_source_rate_reason(source, negative, before, settings.rule.gates.level)


def _leads(settings: DecideSettings, results: _Results, arm: str) -> list[float]:
    """log P of the marker under the source minus that under the negatives, per question, in nats."""
    log_p = _by_question(settings, results.tables, results.selected, arm)
    return (log_p["source"] - log_p["negative"]).to_list()


def _by_question(settings: DecideSettings, tables: Path, selected: float, arm: str) -> pl.DataFrame:
    """log P(separator, marker | own answer) per question, in nats: `source` and `negative` after the coupling,
    and the source's `before` it. Empty if no answer was finished."""
    path = tables / "tables" / "telemetry.parquet"
    if not path.is_file():
        return pl.DataFrame(schema=dict.fromkeys(("source", "negative", "before"), pl.Float64))
    frame = pl.read_parquet(path).filter(
        (pl.col("condition") == arm) & (pl.col("lambda") == selected) & pl.col("role").is_in(["source", "negative"])
    )
    frame = frame.with_columns(last=pl.col("step") == pl.col("step").max().over("seed"))
    is_source, last = pl.col("persona") == settings.source, pl.col("last")
    return (
        frame.group_by("question_id", maintain_order=True)
        .agg(
            source=pl.col("log_p").filter(is_source & last).mean(),
            negative=pl.col("log_p").filter(~is_source & last).mean(),
            before=pl.col("log_p").filter(is_source & (pl.col("step") == 0)).mean(),
        )
        .drop_nulls()
    )
