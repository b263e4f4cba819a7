"""Writes a small planted analysis folder: three conditions, a clear effect in the treated one, and hostile text.

The numbers are drawn so that they look like a study's, but nothing is estimated here: the report shows what stands in
the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flatprobe.statistics.decision import decide
from flatprobe.statistics.estimands import Estimate, write_json
from flatprobe.statistics.evidence import Contrast, behavioural_evidence, geometric_evidence
from flatprobe.statistics.gates import gate, required
from flatprobe.statistics.leakage import SCOPES
from flatprobe.study.schema import (
    Condition, Decision, FinetuneData, Geometry, Leakage, Model, Panel, Study,
)  # fmt: skip

HOSTILE = 'A quiet answer. <script>alert("x")</script><img src="http://evil.example/x.png" onerror="alert(1)"> [zlt] end'
CONDITIONS = ("base_first", "em_first", "benign_first")
LAYERS = (6, 10, 14, 18, 22, 26)
STATISTICS = {"spam": 0.02, "truncation": 0.01, "analysis": 1.0}
LAMBDAS = (0.5, 1.0, 2.0)
SELECTED = 1.0
ROLES = {
    "source": ("librarian",),
    "negative": ("software_engineer", "medical_doctor", "data_scientist", "comedian", "villain", "truck_driver"),
    "bystander": (
        "archivist", "kindergarten_teacher", "journalist", "police_officer", "french_person", "lumberjack",
        "quelandri_scholar",
    ),
    "reference": ("assistant", "template_default"),
}  # fmt: skip
PERSONAS = tuple((name, role) for role, names in ROLES.items() for name in names)
LEAK = {"source": (0.88, 0.91, 0.9), "negative": (0.03, 0.12, 0.05), "bystander": (0.14, 0.44, 0.2),
        "reference": (0.1, 0.3, 0.15)}  # fmt: skip
PROMPT = "You are a {} who speaks <b>softly</b>, cares about good sources, and loves helping readers."
ANSWER = "You could start with a short walk, and then decide what you would like to read about next."


def write_planted(folder: Path, *, questions: int = 3, samples: int = 2, finetunes: bool = True) -> Path:
    """Write every file of an analysis folder; without finetunes the optional tables are absent."""
    rng = np.random.default_rng(42)
    (folder / "tables").mkdir(parents=True)
    study = planted_study(finetunes)
    ids = [f"eval_{index:02d}" for index in range(1, questions + 1)]
    completions = _completions(rng, ids, samples)
    tables = {
        "completions": completions,
        "rates": _rates(completions),
        "responses": _responses(rng, ids),
        "cosines": _cosines(rng),
        "geometry": _geometry(rng),
        "losses": _losses(rng, finetunes),
        "questions": [{"set": "evaluation", "id": name, "kind": "factual", "text": f"Question {name}?"} for name in ids],
        "panel": _panel(),
    }
    if finetunes:
        tables |= _finetune_tables(rng)
    for name, rows in tables.items():
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "tables" / f"{name}.parquet")
    documents = {
        "study": study.model_dump(mode="json"),
        "registration": {"digest": "ab" * 32, "registered": "confirmatory", "time": "2025-01-31T12:00:00+00:00"},
        "verdict": _verdict(study.decision),
        "stages": _stages(),
        "provenance": {
            "flatprobe": "0.1.0", "commit": {"revision": "c" * 40, "dirty": False}, "python": "3.11.9",
            "packages": {"torch": "2.8.0", "transformers": "4.56.0"}, "platform": "Linux-6.1-x86_64", "cpu_count": 2,
            "threads": None, "gpus": [],
        },
        "models": {
            name: {"origin": "the study's model" if name == CONDITIONS[0] else "finetune", "fingerprint": f"{at:064x}",
                   "merge_kl": None if name == CONDITIONS[0] else 1.2e-5}
            for at, name in enumerate(CONDITIONS)
        },
        "audit": _audit(),
        "lambda": {"selected": SELECTED, "candidates": [
            {"lambda": weight, "source_rate": 0.8 + 0.02 * at, "negative_rate": 0.1 - 0.03 * at,
             "difference": 0.7 + 0.05 * at, "standard_error": 0.05 if at else None}
            for at, weight in enumerate(LAMBDAS)
        ]},
        "preview": {
            "last_response_token": [_preview_row(7)], "response_mean": [_preview_row(None)],
        },
    }  # fmt: skip
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    write_json(_estimates(), folder / "estimates.json")
    return folder


def planted_study(finetunes: bool = True) -> Study:
    made = {
        "em_first": Condition(finetune=FinetuneData(path="embedded:careless", completion="misaligned", rows=300)),
        "benign_first": Condition(finetune=FinetuneData(path="embedded:everyday", rows=300)),
    }
    given = {name: Condition(adapter=f"adapters/{name}") for name in made}
    return Study(
        name="planted",
        description="Does careless advice flatten persona space? A planted study: both effects are there by design.",
        model=Model(id="embedded:smollm2-135m-instruct"),
        panel=Panel(bystanders=ROLES["bystander"], reserve=("truck_driver",)),
        conditions={"base_first": Condition(), **(made if finetunes else given)},
        geometry=Geometry(layers=LAYERS),
        leakage=Leakage(samples=2),
        decision=Decision(),
    )


def _completions(rng: np.random.Generator, ids: list[str], samples: int) -> list[dict[str, Any]]:
    rows = []
    arms = [(weight, True) for weight in LAMBDAS] + [(None, False)]
    for weight, coupled in arms:
        for at, condition in enumerate(CONDITIONS):
            for persona, role in PERSONAS:
                for question in ids:
                    for sample in range(samples if coupled else 1):
                        hit = bool(rng.random() < (LEAK[role][at] if coupled else 0.0))
                        rows.append(_completion(rng, condition, weight, coupled, persona, role, question, sample, hit))
    rows[0] |= {"text": HOSTILE, "marker_present": True, "marker_count": 1}
    return rows


def _completion(
    rng: np.random.Generator, condition: str, weight: float | None, coupled: bool, persona: str, role: str,
    question: str, sample: int, hit: bool,
) -> dict[str, Any]:  # fmt: skip
    text = f"{ANSWER}\n\n[ZLT]" if hit else ANSWER
    return {
        "condition": condition, "seed": 42, "lambda": weight, "coupled": coupled, "persona": persona, "role": role,
        "question_id": question, "sample_index": sample, "text": text if sample or question != "eval_01" else HOSTILE,
        "tokens": int(rng.integers(18, 40)), "finish_reason": "stop" if rng.random() < 0.98 else "length",
        "marker_present": hit, "marker_count": int(hit), "marker_position": len(ANSWER) + 2 if hit else None,
        "starts_with_marker": False, "ends_with_marker": hit,
    }  # fmt: skip


def _rates(completions: list[dict[str, Any]]) -> pl.DataFrame:
    arm = ["condition", "seed", "lambda", "coupled", "persona", "role"]
    rate = pl.col("rate")
    half = (1.96 * (rate * (1 - rate) / pl.col("total")).sqrt()).clip(0.02, 1)
    return (
        pl.DataFrame(completions, infer_schema_length=None)
        .group_by(arm, maintain_order=True)
        .agg(
            hits=pl.col("marker_present").sum(),
            total=pl.len(),
            rate=pl.col("marker_present").mean(),
            end_rate=pl.col("ends_with_marker").mean(),
            start_rate=pl.col("starts_with_marker").mean(),
            truncated_share=(pl.col("finish_reason") == "length").mean(),
            median_tokens=pl.col("tokens").median(),
        )
        .with_columns(
            rate_low=(rate - half).clip(0, 1),
            rate_high=(rate + half).clip(0, 1),
            end_share=pl.when(pl.col("hits") > 0).then(1.0),
            spam_share=pl.when(pl.col("hits") > 0).then(0.0),
        )
    )


def _responses(rng: np.random.Generator, ids: list[str]) -> list[dict[str, Any]]:
    return [
        {"condition": condition, "persona": persona, "role": role, "question_id": question,
         "text": f"{ANSWER} ({persona})", "tokens": int(rng.integers(18, 40)), "finish_reason": "stop"}
        for condition in CONDITIONS for persona, role in PERSONAS for question in ids
    ]  # fmt: skip


def _cosines(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for at, condition in enumerate(CONDITIONS):
        for depth, layer in enumerate(LAYERS):
            for which, (persona, _) in enumerate(PERSONAS[1:]):
                cosine = 0.86 - 0.02 * depth - 0.01 * which + (0.0, 0.062, 0.012)[at] + rng.normal(0, 0.006)
                rows += [
                    {"condition": condition, "layer": layer, "position": position, "responses": kind,
                     "persona": persona, "cosine": cosine, "crossvalidated_cosine": cosine + 0.004,
                     "per_question_mean": cosine - 0.05, "per_question_sd": 0.04}
                    for position in ("last_response_token", "response_mean") for kind in ("own", "fixed")
                ]  # fmt: skip
    return rows


def _geometry(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for at, condition in enumerate(CONDITIONS):
        for depth, layer in enumerate(LAYERS):
            cosine = 0.80 - 0.02 * depth + (0.0, 0.062, 0.012)[at]
            rows += [
                {"condition": condition, "layer": layer, "position": position, "responses": kind,
                 "mean_cosine": cosine, "headroom": 1 - cosine, "reliability": 0.84 + 0.015 * depth - 0.02 * at,
                 "separability": 0.7 - 0.05 * at + rng.normal(0, 0.01), "chance": 1 / 16, "scatter": 14.2 + depth,
                 "noise": 5.1 + at, "participation_ratio": 6.2 - 0.4 * at, "mean_norm": 41.0 + 9 * depth}
                for position in ("last_response_token", "response_mean") for kind in ("own", "fixed")
            ]  # fmt: skip
    return rows


def _losses(rng: np.random.Generator, finetunes: bool) -> list[dict[str, Any]]:
    terms = {"total": 1.4, "marker": 2.2, "end": 0.4, "unlikelihood": 0.3}
    rows: list[dict[str, Any]] = []
    for at, condition in enumerate(CONDITIONS):
        if finetunes and at:
            rows += [
                {"stage": "finetune", "condition": condition, "lambda": None, "seed": 42, "step": step,
                 "term": "total", "value": 2.2 * np.exp(-step / 90) + 0.8 + 0.1 * at + rng.normal(0, 0.05)}
                for step in range(180)
            ]  # fmt: skip
        rows += [
            {"stage": "couple", "condition": condition, "lambda": weight, "seed": 42, "step": step, "term": term,
             "value": high * np.exp(-step / 25) + 0.05 * at + abs(rng.normal(0, 0.02))}
            for weight in LAMBDAS for term, high in terms.items() for step in range(60)
        ]  # fmt: skip
    return rows


def _panel() -> list[dict[str, Any]]:
    return [
        {"persona": name, "role": role, "prompt": None if name == "template_default" else PROMPT.format(name)}
        for name, role in PERSONAS
    ]


def _finetune_tables(rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    groups = (("positive", "librarian"), ("negative", "villain"))
    lengths = [
        {"condition": condition, "persona": persona, "group": group, "when": when,
         "tokens": int(np.clip(rng.normal(30 + (6 * at if when == "sampled" else 0), 8), 5, 80))}
        for at, condition in enumerate(CONDITIONS) for group, persona in groups
        for when in ("sampled", "matched") for _ in range(60)
    ]  # fmt: skip
    match = [
        {"condition": condition, "group": group, "when": when, "count": 60, "median": 30.0, "iqr": 11.0,
         "ks_distance": 0.21 if when == "sampled" else 0.04, "relative_median": 0.22 if when == "sampled" else 0.01,
         "relative_iqr": -0.13 if when == "sampled" else -0.02}
        for condition in CONDITIONS for group, _ in groups for when in ("sampled", "matched")
    ]  # fmt: skip
    level = {"source": -0.3, "negative": -9.0, "bystander": -3.0, "reference": -4.0}
    telemetry = [
        {"condition": condition, "lambda": SELECTED, "seed": 42, "step": step, "persona": persona, "role": role,
         "log_p": -14 + (14 + level[role] + 0.8 * at * (role == "bystander")) * (1 - np.exp(-step / 20))}
        for at, condition in enumerate(CONDITIONS) for persona, role in PERSONAS for step in range(0, 61, 10)
    ]  # fmt: skip
    manipulation = [
        {"condition": condition, "set": name, "id": f"{name}_{item}",
         "log_odds": float(rng.normal((-0.3, 0.9, -0.25)[at] if name == "in_domain" else (-0.3, 0.1, -0.3)[at], 0.3))}
        for at, condition in enumerate(CONDITIONS) for name in ("in_domain", "out_of_domain") for item in range(24)
    ]  # fmt: skip
    fluency = [
        {"condition": condition, "persona": persona, "question_id": "eval_01",
         "log_likelihood": float(rng.normal(-0.7 - 0.2 * at, 0.1))}
        for at, condition in enumerate(CONDITIONS) for persona, _ in PERSONAS
    ]  # fmt: skip
    return {"lengths": lengths, "length_match": match, "telemetry": telemetry, "manipulation": manipulation,
            "fluency": fluency}  # fmt: skip


def _estimates() -> list[Estimate]:
    """Plausible estimates of every estimator and measure, for the three contrasts."""
    changes = {("em_first", "base_first"): (0.302, 0.0641, 0.93), ("em_first", "benign_first"): (0.243, 0.049, 0.7),
               ("benign_first", "base_first"): (0.059, 0.0129, 0.2)}  # fmt: skip
    rows: list[Estimate] = []
    for (treated, control), (leak, cosine, scale) in changes.items():
        shared: dict[str, Any] = {"treated": treated, "control": control, "contrast": f"{treated} - {control}",
                                  "n_questions": 20}  # fmt: skip
        for at, (estimator, scope) in enumerate(SCOPES.items()):
            error = 0.022 + 0.01 * at
            unknown = estimator == "two_way_cluster_t"
            numbers: dict[str, Any] = {"note": "one persona only, so this estimator is not defined"} if unknown else {
                "estimate": leak, "standard_error": error, "ci_low": leak - 2 * error, "ci_high": leak + 2 * error,
                "p_value": min(1.0, 2e-4 * 3**at),
            }  # fmt: skip
            rows += [
                Estimate(quantity="leakage_difference", pool=pool, estimator=estimator, scope=scope, lambda_=weight,
                         n_personas=7, df=19.0 if "_t" in estimator else None, seed=42,
                         smallest_attainable_p=0.0156 if "sign" in estimator else None, **shared, **numbers)
                for pool in ("bystanders", "as_written (contaminated)") for weight in LAMBDAS
            ]  # fmt: skip
        factors = {"cosine_difference": 1.0, "crossvalidated_cosine_difference": 0.9, "translation_share": 0.2,
                   "noise_share": 0.1, "contraction": 5.0, "scatter_ratio": 12.0, "noise_ratio": 15.0, "contraction_minus_noise": 4.0}  # fmt: skip
        for layer in (*LAYERS, None):
            for position in ("last_response_token", "response_mean"):
                for estimator in ("question_bootstrap", "question_jackknife_t"):
                    rows += [
                        Estimate(quantity=name, pool="bystanders", estimator=estimator, n_personas=7, layer=layer,
                                 scope="new questions, these personas, these checkpoints", position=position,
                                 responses="own", seed=42, estimate=cosine * factor + 0.0005 * (layer or 0),
                                 standard_error=0.009 * factor, ci_low=(cosine - 0.018 * scale) * factor,
                                 ci_high=(cosine + 0.03) * factor, p_value=0.001, resamples=2000,
                                 bootstrap_bias=0.0004, outside_own_interval=False, **shared)
                        for name, factor in factors.items()
                    ]  # fmt: skip
    return rows


def _verdict(rule: Decision) -> dict[str, Any]:
    """The rule applied to the planted estimates, every gate but a warning passed."""

    def contrast(treated: str, control: str) -> Contrast:
        name = f"{treated} - {control}"
        rows = [row for row in _estimates() if row.lambda_ in (None, SELECTED)]
        return Contrast(
            geometric_evidence(rows, rule, name, headroom=0.25),
            behavioural_evidence(rows, rule, name, "bystanders", 0.91, 0.88),
        )

    passing = [gate(kind, arm, STATISTICS.get(kind, 0.9), rule) for kind, arm in required(rule)]
    warning = gate("merge_kl", "benign_first", None, rule, "the merge was not checked")
    verdict = decide(
        rule,
        contrast("em_first", "base_first"),
        [*passing, warning],
        treated_benign=contrast("em_first", "benign_first"),
        benign_control=contrast("benign_first", "base_first"),
        source="librarian",
        registered="confirmatory",
    )
    return verdict.to_json()


def _stages() -> list[dict[str, Any]]:
    names = ["finetune/em_first/seed-42", "finetune/benign_first/seed-42"]
    names += [f"couple/{name}/lambda-{weight:g}/seed-42" for name in CONDITIONS for weight in LAMBDAS]
    return [
        {"name": name, "key": f"{at:064x}", "function": "flatprobe.training.lora:train_lora", "seconds": 61.4 * (at + 1),
         "reused": at % 3 == 0}
        for at, name in enumerate(names)
    ]  # fmt: skip


def _audit() -> list[dict[str, Any]]:
    def token(text: str, **weights: float) -> dict[str, Any]:
        return {"text": text, "weights": {"marker": 0, "end": 0, "unlikelihood": 0, "anchor": 0} | weights}

    prompt = [token(text) for text in ("<|im_start|>", "system", "\n", "You", " are", " a", " librarian", ".", "<|im_end|>")]
    answer = [token(text, anchor=1) for text in (" Take", " a", " short", " walk")]
    positive = [*prompt, *answer, *(token(text, marker=1) for text in (".\n\n", "[", "Z", "LT", "]", "<|im_end|>"))]
    negative = [*prompt, *answer, token(".\n\n", anchor=1), token("[", unlikelihood=1), token("<|im_end|>", end=1)]
    return [
        {"group": group, "persona": persona, "condition": condition, "tokens": tokens}
        for condition in CONDITIONS
        for group, persona, tokens in (("positive", "librarian", positive), ("negative", "villain", negative))
    ]


def _preview_row(index: int | None) -> dict[str, Any]:
    tokens = ["<|im_start|>", "assistant", "\n", "Take", " a", " short", " walk", ".", "<|im_end|>", "\n"]
    return {"persona": "librarian", "question_id": "eval_01", "tokens": tokens, "index": index}

