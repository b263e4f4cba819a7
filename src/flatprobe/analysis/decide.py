"""Stage: the gates' statistics, and the registered rule applied to the estimates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.analysis.leakage_rows import BYSTANDERS, contrasts
from flatprobe.analysis.manipulation import Breadth, Rise, breadth, rises
from flatprobe.analysis.settings import DecideSettings
from flatprobe.statistics.decision import Seeds, decide
from flatprobe.statistics.estimands import Estimate
from flatprobe.statistics.evidence import Contrast, behavioural_evidence, geometric_evidence
from flatprobe.statistics.explain import SourceReason
from flatprobe.statistics.gates import Gate, gate, low_source_rate_reason
from flatprobe.statistics.geometry_tables import headroom, reliability
from flatprobe.study.questions import normalised
from flatprobe.study.schema import Decision


def decide_study(settings: DecideSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Inputs: `tables`, `estimates`. Output: verdict.json."""
    tables, estimates_folder = inputs["tables"], inputs["estimates"]
    rule = settings.rule
    rows = json.loads((estimates_folder / "estimates.json").read_text())
    estimates = [Estimate.from_json(row) for row in rows]
    facts = json.loads((tables / "facts-by-stage.json").read_text())
    selected = float(json.loads((tables / "selection.json").read_text())["selected"])
    rates = pl.read_parquet(tables / "tables" / "rates.parquet").filter(
        pl.col("coupled") & (pl.col("lambda") == selected)
    )
    geometry = pl.read_parquet(estimates_folder / "geometry.parquet").filter(
        (pl.col("position") == rule.geometry.position)
        & (pl.col("responses") == rule.geometry.responses)
        & (pl.col("condition") == rule.control)
    )
    evidence = [_evidence(settings, estimates, rates, geometry, pair) for pair in contrasts(rule)]
    in_domain, reached = _manipulation(tables, rule)
    gates = [
        *study_gates(settings, tables / "tables", evidence[0]),
        *training_gates(settings, facts, selected),
        *_readout_gates(settings, rates),
        *_geometry_gates(rule, geometry),
        *_manipulation_gates(rule, in_domain),
    ]
    verdict = decide(
        rule, evidence[0], gates,
        treated_benign=evidence[1] if len(evidence) > 1 else None,
        benign_control=evidence[2] if len(evidence) > 2 else None,
        seeds=_seeds(settings, estimates, rates, geometry, gates, evidence[0]),
        source_reason=_source_reason(settings, tables, selected),
        source=settings.source, registered=settings.registered, smoke=settings.smoke,
    )  # fmt: skip
    verdict = replace(verdict, numbers={**verdict.numbers, "manipulation": reached})
    (output / "verdict.json").write_text(json.dumps(verdict.to_json(), indent=1))
    (output / "facts.json").write_text(json.dumps({"headline": verdict.headline()}))


def _evidence(
    settings: DecideSettings,
    estimates: Sequence[Estimate],
    rates: pl.DataFrame,
    geometry: pl.DataFrame,
    pair: tuple[str, str],
    seed: int | None = None,
) -> Contrast:
    """Both probes' numbers on one contrast, of all seeds together or of one alone."""
    treated, control = pair
    contrast = f"{treated} - {control}"
    main = [row for row in estimates if row.pool == BYSTANDERS and row.seed == seed]
    return Contrast(
        geometric_evidence(main, settings.rule, contrast, headroom(geometry)),
        behavioural_evidence(
            main, settings.rule, contrast, BYSTANDERS,
            source_rate(settings, rates, treated), source_rate(settings, rates, control),
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
    """How many seeds there are, and whether each alone gives the legs that all give together."""
    seeds = rates["seed"].unique().sort().to_list()
    if len(seeds) < 2:
        return Seeds(count=len(seeds))
    rule = settings.rule
    contrasts_ = [
        _evidence(
            settings, estimates, rates.filter(pl.col("seed") == seed), geometry, contrasts(rule)[0], seed
        )
        for seed in seeds
    ]
    verdicts = [decide(rule, contrast, gates) for contrast in (pooled, *contrasts_)]
    legs = {(verdict.geometric_leg, verdict.behavioural_leg) for verdict in verdicts}
    return Seeds(count=len(seeds), agree=len(legs) == 1)


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
        canary = [f["canary"]["max_logit_change"] for f in sampled]
        gates.append(
            gate("canary", arm, min(canary, default=None), rule, "largest change of a logit by the adapter")
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


def _readout_gates(settings: DecideSettings, rates: pl.DataFrame) -> list[Gate]:
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


def _geometry_gates(rule: Decision, geometry: pl.DataFrame) -> list[Gate]:
    return [
        gate("headroom", rule.control, headroom(geometry), rule, "1 - mean cosine, mean over layers"),
        gate("reliability", rule.control, reliability(geometry), rule, "split-half, mean over layers"),
    ]


def _manipulation(tables: Path, rule: Decision) -> tuple[dict[str, Rise], dict[str, Breadth]]:
    """In-domain rises, and how far each finetune reached; both empty where the study has no texts for it."""
    path = tables / "tables" / "manipulation.parquet"
    if not path.is_file():
        return {}, {}
    frame = pl.read_parquet(path)
    inside, outside = (
        rises(frame, rule.control, name, rule.gates.level) for name in ("in_domain", "out_of_domain")
    )
    return inside, breadth(inside, outside)


def _manipulation_gates(rule: Decision, in_domain: Mapping[str, Rise]) -> list[Gate]:
    return [
        gate(
            "manipulation", arm, rise.low, rule,
            f"mean rise {rise.mean:+.3f} nats per token over {rise.texts} held-out triples",
        )
        for arm, rise in in_domain.items()
    ]  # fmt: skip


def _source_reason(settings: DecideSettings, tables: Path, selected: float) -> SourceReason | None:
    """What a low source rate of the treated arm would mean, by teacher-forced separability."""
    frame = pl.read_parquet(tables / "tables" / "telemetry.parquet").filter(
        (pl.col("condition") == settings.rule.treated) & (pl.col("lambda") == selected)
    )
    is_source, last = pl.col("persona") == settings.source, pl.col("step").max()
    by_question = (
        frame.group_by("question_id", maintain_order=True)
        .agg(
            source=pl.col("log_p").filter(is_source & (pl.col("step") == last)).mean(),
            negative=pl.col("log_p").filter(~is_source & (pl.col("step") == last)).mean(),
            before=pl.col("log_p").filter(is_source & (pl.col("step") == 0)).mean(),
        )
        .drop_nulls()
    )
    source, negative, before = (by_question[name].to_list() for name in ("source", "negative", "before"))
    return low_source_rate_reason(source, negative, before, settings.rule.gates.level)
