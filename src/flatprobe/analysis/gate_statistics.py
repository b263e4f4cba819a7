"""Statistics of the gates, from a study's facts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from flatprobe.analysis.manipulation import Rise
from flatprobe.decision.evidence import Contrast
from flatprobe.decision.gates import Gate, gate
from flatprobe.facts import (
    CoupleFacts,
    CouplingDataFacts,
    MergeFacts,
    Parity,
    SampleFacts,
    StageFacts,
    StatesFacts,
    facts_of,
)
from flatprobe.generation.canary import smallest_change
from flatprobe.planner.contracts import DecideSettings
from flatprobe.statistics.geometry.tables import headroom, reliability
from flatprobe.study.decision_schema import Decision
from flatprobe.study.questions import normalised


def source_rate(settings: DecideSettings, rates: pl.DataFrame, condition: str) -> float | None:
    """Share of the source's completions that match as the rule says, pooled over rows; None without rows."""
    rows = rates.filter((pl.col("condition") == condition) & (pl.col("persona") == settings.source))
    total = int(rows["total"].sum())
    share = {"strict": "rate", "end_anchored": "end_rate"}[settings.rule.gates.source_match]
    hits = round(float((rows[share] * rows["total"]).sum()))  # counts again: a threshold is met exactly or not
    return hits / total if total else None


def study_gates(settings: DecideSettings, tables: Path, main: Contrast) -> list[Gate]:
    """Overlaps of roles and questions, counted in what the run used, and the completeness of the analysis."""
    rule = settings.rule
    trained = set(pl.read_parquet(tables / "lengths.parquet")["persona"])
    shared = sorted(trained & set(settings.bystanders))
    texts = pl.read_parquet(tables / "questions.parquet")["text"].map_elements(normalised, return_dtype=pl.String)
    repeated = len(texts) - texts.n_unique()
    returned = [main.geometry.effect is not None, main.behaviour.effect is not None]
    share = sum(returned) / len(returned)
    trained_on = f": {', '.join(shared)}" if shared else f" of {len(settings.bystanders)}"
    return [
        gate("role_overlap", "study", len(shared), rule, f"bystanders with training examples{trained_on}"),
        gate("question_overlap", "study", repeated, rule, f"repeated questions, of {len(texts)} in all sets"),
        gate("analysis", "study", share, rule, "share of the deciding estimates that exist"),
    ]


def training_gates(settings: DecideSettings, stages: Sequence[StageFacts], selected: float) -> list[Gate]:
    """Mask audit, length match, merge proof, engine parity and adapter canary of every condition."""
    rule, gates = settings.rule, list[Gate]()
    lambda_of = {stage.role: stage.facts.lambda_ for stage in stages if isinstance(stage.facts, CoupleFacts)}
    all_canaries = [f.canary for f in _leakage(stages) if f.canary is not None]
    for condition in sorted({stage.condition for stage in stages if stage.condition is not None}):
        couples = [f for f in facts_of(stages, CoupleFacts, condition) if f.lambda_ == selected]
        gates.append(gate("mask_audit", condition, min((f.audited for f in couples), default=None), rule))
        gates += _length_gates(rule, condition, facts_of(stages, CouplingDataFacts))
        if condition in settings.finetuned:
            merges = facts_of(stages, MergeFacts, condition)
            kl = max((f.mean_kl for f in merges), default=None)
            norm = min((f.adapter_norm for f in merges), default=None)
            gates += [gate("merge_kl", condition, kl, rule), gate("merge_norm", condition, norm, rule)]
        sampled = _leakage(
            [s for s in stages if s.condition == condition and lambda_of.get(s.couple or "") == selected]
        )
        gates.append(_parity_gate(rule, condition, [f.parity for f in sampled if f.parity is not None]))
        canaries = [f.canary for f in sampled if f.canary is not None]
        gates.append(
            gate(
                "canary",
                condition,
                smallest_change(canaries, all_canaries),
                rule,
                "largest change of a log-probability, from base and other adapters",
            )
        )
    return gates


def _leakage(stages: Sequence[StageFacts]) -> list[SampleFacts]:
    return facts_of([stage for stage in stages if stage.kind == "leakage"], SampleFacts)


def _parity_gate(rule: Decision, condition: str, checks: Sequence[Parity]) -> Gate:
    """Agreement with the reference, pooled over the condition's sampling stages at the selected lambda."""
    agreed, tokens = sum(check.agreed for check in checks), sum(check.tokens for check in checks)
    share = agreed / tokens if tokens else None
    return gate("engine_parity", condition, share, rule, f"{agreed} of {tokens} greedy tokens agree")


def _length_gates(rule: Decision, condition: str, data: Sequence[CouplingDataFacts]) -> list[Gate]:
    """Lengths of the condition's training answers: the worst persona counts."""
    used = [facts for facts in data if condition in facts.gate]
    worst = {kind: max((f.gate[condition][kind] for f in used), default=None) for kind in ("median", "iqr")}
    groups = [(persona, group) for f in used for persona, group in f.support[condition].items()]
    share = min((group["kept"] / group["asked"] for _, group in groups), default=None)
    kept, requested = (sum(group[name] for _, group in groups) for name in ("kept", "asked"))
    short = sorted({persona for persona, group in groups if group["kept"] < group["asked"]})
    detail = f"{kept} of {requested} examples" + (f"; short: {', '.join(short)}" if short else "")
    return [
        gate("length_median", condition, worst["median"], rule, "worst persona against all groups' median"),
        gate("length_iqr", condition, worst["iqr"], rule, "worst persona against all groups' range"),
        gate("length_support", condition, share, rule, detail),
    ]


def readout_gates(settings: DecideSettings, rates: pl.DataFrame) -> list[Gate]:
    """Source rate, end anchoring, spam and truncation of every condition, over all its coupled completions."""
    rule, gates = settings.rule, list[Gate]()
    match = f"{rule.gates.source_match.replace('_', '-')} match"
    for (arm,), rows in rates.group_by(["condition"], maintain_order=True):
        name = str(arm)
        total, hits = int(rows["total"].sum()), int(rows["hits"].sum())
        marked = rows.filter(pl.col("hits") > 0)
        weighted = {
            c: float((marked[c] * marked["hits"]).sum()) / hits if hits else None for c in ("end_share", "spam_share")
        }
        gates.append(gate("source_rate", name, source_rate(settings, rates, name), rule, match))
        gates.append(gate("marker_at_end", name, weighted["end_share"], rule, f"of {hits} marked completions"))
        gates.append(gate("spam", name, weighted["spam_share"], rule, f"of {hits} marked completions"))
        truncated = float((rows["truncated_share"] * rows["total"]).sum()) / total
        gates.append(gate("truncation", name, truncated, rule, f"of {total} completions"))
    return gates


def geometry_gates(rule: Decision, geometry: pl.DataFrame) -> list[Gate]:
    return [
        gate("headroom", rule.control, headroom(geometry), rule, "1 - mean cosine, mean over layers"),
        gate("reliability", rule.control, reliability(geometry), rule, "split-half, mean over layers"),
    ]


def unfinished_gates(rule: Decision, stages: Sequence[StageFacts]) -> list[Gate]:
    """Share of the deciding answers that were cut, by condition; of the control alone where all share its answers.

    The state at a token limit is not the state of a last token.
    """
    responses = rule.geometry.responses
    conditions = dict.fromkeys(stage.condition for stage in stages if stage.kind == "states")
    gates = []
    for condition in conditions if responses == "own" else [rule.control]:
        assert condition is not None
        states = facts_of(stages, StatesFacts, condition)
        if responses == "own":
            cut, answers = sum(f.unfinished for f in states), sum(f.cells for f in states)
        else:
            cut, answers = sum(f.unfinished_fixed for f in states), sum(f.questions for f in states)
        detail = f"{cut} of {answers} {responses} answers whose states are read"
        gates.append(gate("unfinished", condition, cut / answers, rule, detail))
    return gates


def manipulation_gates(rule: Decision, rise: Rise | None) -> list[Gate]:
    """The manipulation gate of the treated condition, from its in-domain rise on its own held-out texts."""
    if rise is None:
        return []
    what = f"mean rise {rise.mean:+.3f} nats per token over {rise.texts} held-out triples on {rise.prompts} prompts"
    return [gate("manipulation", rule.treated, rise.low, rule, what)]
