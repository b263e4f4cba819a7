"""The statistics that gates look at, taken from a study's facts and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.analysis.manipulation import Rise
from flatprobe.decision.evidence import Contrast
from flatprobe.decision.gates import Gate, gate
from flatprobe.generation.canary import smallest_change
from flatprobe.planner.contracts import DecideSettings
from flatprobe.statistics.geometry.tables import headroom, reliability
from flatprobe.study.decision_schema import Decision
from flatprobe.study.questions import normalised


def source_rate(settings: DecideSettings, rates: pl.DataFrame, condition: str) -> float | None:
    """Share of the source's completions that count by the rule's match, over all its rows; None without any."""
    rows = rates.filter((pl.col("condition") == condition) & (pl.col("persona") == settings.source))
    total = int(rows["total"].sum())
    share = {"strict": "rate", "end_anchored": "end_rate"}[settings.rule.gates.source_match]
    hits = round(
        float((rows[share] * rows["total"]).sum())
    )  # counts again: a threshold is met exactly or not
    return hits / total if total else None


def study_gates(settings: DecideSettings, tables: Path, main: Contrast) -> list[Gate]:
    """Overlaps, counted in what the run really used (the loader refuses them too), and a whole analysis."""
    rule = settings.rule
    trained = set(pl.read_parquet(tables / "lengths.parquet")["persona"])
    shared = sorted(trained & set(settings.bystanders))
    asked = pl.read_parquet(tables / "questions.parquet")["text"].map_elements(
        normalised, return_dtype=pl.String
    )
    repeated = len(asked) - asked.n_unique()
    returned = [main.geometry.effect is not None, main.behaviour.effect is not None]
    share = sum(returned) / len(returned)
    trained_on = f": {', '.join(shared)}" if shared else f" of {len(settings.bystanders)}"
    return [
        gate("role_overlap", "study", len(shared), rule, f"bystanders with training examples{trained_on}"),
        gate(
            "question_overlap", "study", repeated, rule, f"questions asked twice, of {len(asked)} in all sets"
        ),
        gate("analysis", "study", share, rule, "share of the deciding estimates that exist"),
    ]


def training_gates(settings: DecideSettings, facts: Sequence[dict[str, Any]], selected: float) -> list[Gate]:
    """Mask audit, length match, merge proof, engine parity and adapter canary of every arm."""
    rule, gates = settings.rule, list[Gate]()
    arms = sorted({str(fact["condition"]) for fact in facts if fact["condition"] is not None})
    for arm in arms:
        of = {
            kind: [f["facts"] for f in facts if f["condition"] == arm and f["kind"] == kind]
            for kind in ("couple", "checkpoint")
        }
        couples = [f for f in of["couple"] if f["lambda"] == selected]
        gates.append(gate("mask_audit", arm, min((f["audited"] for f in couples), default=None), rule))
        gates += _length_gates(rule, arm, [f["facts"] for f in facts if f["kind"] == "coupling_data"])
        if arm in settings.finetuned:
            merges = of["checkpoint"]
            gates.append(
                gate("merge_kl", arm, max((f.get("mean_kl", math.nan) for f in merges), default=None), rule)
            )
            gates.append(
                gate(
                    "merge_norm",
                    arm,
                    min((f.get("adapter_norm", math.nan) for f in merges), default=None),
                    rule,
                )
            )
        lambda_of = {f["role"]: f["facts"]["lambda"] for f in facts if f["kind"] == "couple"}
        sampled = [
            f["facts"] for f in facts
            if f["condition"] == arm and f["kind"] == "leakage" and lambda_of[f["couple"]] == selected
        ]  # fmt: skip
        gates.append(_parity_gate(rule, arm, [f["parity"] for f in sampled]))
        read = [f["facts"]["canary"] for f in facts if f["kind"] == "leakage"]
        told = smallest_change([f["canary"] for f in sampled], read)
        gates.append(
            gate(
                "canary", arm, told, rule, "largest change of a log-probability, from base and other adapters"
            )
        )
    return gates


def _parity_gate(rule: Decision, arm: str, stages: Sequence[dict[str, int]]) -> Gate:
    """Agreement with the reference, all of the arm's sampling stages at the selected lambda taken together."""
    agreed, tokens = (sum(stage[name] for stage in stages) for name in ("agreed", "tokens"))
    share = agreed / tokens if tokens else None
    return gate("engine_parity", arm, share, rule, f"{agreed} of {tokens} greedy tokens agree")


def _length_gates(rule: Decision, arm: str, facts: Sequence[dict[str, Any]]) -> list[Gate]:
    """Lengths of the arm's training answers, persona by persona: the worst one counts."""
    found = [f for f in facts if arm in f["gate"]]
    worst = {kind: max((f["gate"][arm][kind] for f in found), default=None) for kind in ("median", "iqr")}
    groups = [(persona, group) for f in found for persona, group in f["support"][arm].items()]
    share = min((group["kept"] / group["asked"] for _, group in groups), default=None)
    kept, asked = (sum(group[name] for _, group in groups) for name in ("kept", "asked"))
    short = sorted({persona for persona, group in groups if group["kept"] < group["asked"]})
    detail = f"{kept} of {asked} examples" + (f"; short: {', '.join(short)}" if short else "")
    return [
        gate("length_median", arm, worst["median"], rule, "worst persona against all groups' median"),
        gate("length_iqr", arm, worst["iqr"], rule, "worst persona against all groups' range"),
        gate("length_support", arm, share, rule, detail),
    ]


def readout_gates(settings: DecideSettings, rates: pl.DataFrame) -> list[Gate]:
    """Source rate of each arm; end anchoring, spam and truncation over all its coupled completions."""
    rule, gates = settings.rule, list[Gate]()
    match = f"{rule.gates.source_match.replace('_', '-')} match"
    for (arm,), rows in rates.group_by(["condition"], maintain_order=True):
        name = str(arm)
        total, hits = int(rows["total"].sum()), int(rows["hits"].sum())
        marked = rows.filter(pl.col("hits") > 0)
        weighted = {
            c: float((marked[c] * marked["hits"]).sum()) / hits if hits else None
            for c in ("end_share", "spam_share")
        }
        gates.append(gate("source_rate", name, source_rate(settings, rates, name), rule, match))
        gates.append(
            gate("marker_at_end", name, weighted["end_share"], rule, f"of {hits} marked completions")
        )
        gates.append(gate("spam", name, weighted["spam_share"], rule, f"of {hits} marked completions"))
        truncated = float((rows["truncated_share"] * rows["total"]).sum()) / total
        gates.append(gate("truncation", name, truncated, rule, f"of {total} completions"))
    return gates


def geometry_gates(rule: Decision, geometry: pl.DataFrame) -> list[Gate]:
    return [
        gate("headroom", rule.control, headroom(geometry), rule, "1 - mean cosine, mean over layers"),
        gate("reliability", rule.control, reliability(geometry), rule, "split-half, mean over layers"),
    ]


def unfinished_gates(rule: Decision, facts: Sequence[dict[str, Any]]) -> list[Gate]:
    """The answers whose states decide, by arm, and of the control's alone where all arms share them: a state at the
    token limit is not that of a last token."""
    whole = {"own": ("unfinished", "cells"), "fixed": ("unfinished_fixed", "questions")}[
        rule.geometry.responses
    ]
    gates = []
    arms = dict.fromkeys(fact["condition"] for fact in facts if fact["kind"] == "states")
    for arm in arms if rule.geometry.responses == "own" else [rule.control]:
        read = [f["facts"] for f in facts if f["kind"] == "states" and f["condition"] == arm]
        cut, cells = (sum(one[name] for one in read) for name in whole)
        what = f"{cut} of {cells} {rule.geometry.responses} answers whose states are read"
        gates.append(gate("unfinished", arm, cut / cells, rule, what))
    return gates


def manipulation_gates(rule: Decision, rise: Rise | None) -> list[Gate]:
    """Of the treated arm alone, whose in-domain `rise` on its own held-out texts is given: that a harmless finetune, or
    none, taught no bad answers is as it should be."""
    if rise is None:
        return []
    what = f"mean rise {rise.mean:+.3f} nats per token over {rise.texts} held-out triples on {rise.prompts} prompts"
    return [gate("manipulation", rule.treated, rise.low, rule, what)]
