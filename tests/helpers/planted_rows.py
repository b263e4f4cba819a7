"""Rows of the planted tables: three conditions, a clear effect in the treated one, and hostile text."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl

HOSTILE = 'Quiet. <script>alert("x")</script><img src="http://evil.example/x.png" onerror="alert(1)"> [zlt] end'
CONDITIONS = ("base_first", "em_first", "benign_first")
LAYERS = (6, 10, 14, 18, 22, 26)
LAMBDAS = (0.5, 1.0, 2.0)
SELECTED = 1.0
ROLES = {
    "source": ("librarian",),
    "negative": (*("software_engineer", "medical_doctor", "data_scientist"), *("comedian", "villain", "truck_driver")),
    "bystander": (
        *("archivist", "kindergarten_teacher", "journalist", "police_officer"),
        *("french_person", "lumberjack", "quelandri_scholar"),
    ),
    "reference": ("assistant", "template_default"),
}
PERSONAS = tuple((name, role) for role, names in ROLES.items() for name in names)
LEAK = {
    "source": (0.88, 0.91, 0.9),
    "negative": (0.03, 0.12, 0.05),
    "bystander": (0.14, 0.44, 0.2),
    "reference": (0.1, 0.3, 0.15),
}
PROMPT = "You are a {} who speaks <b>softly</b>, cares about good sources, and loves helping readers."
ANSWER = "You could start with a short walk, and then decide what you would like to read about next."


def completions(rng: np.random.Generator, ids: list[str], samples: int) -> list[dict[str, Any]]:
    rows = []
    arms = [(weight, True) for weight in LAMBDAS] + [(None, False)]
    for weight, coupled in arms:
        for at, condition in enumerate(CONDITIONS):
            for persona, role in PERSONAS:
                for question in ids:
                    for sample in range(samples if coupled else 1):
                        hit = bool(rng.random() < (LEAK[role][at] if coupled else 0.0))
                        rows.append(_completion(rng, condition, weight, coupled, persona, role, question, sample, hit))
    return rows


def _completion(
    rng: np.random.Generator,
    condition: str,
    weight: float | None,
    coupled: bool,
    persona: str,
    role: str,
    question: str,
    sample: int,
    hit: bool,
) -> dict[str, Any]:
    text = f"{ANSWER}\n\n[ZLT]" if hit else ANSWER
    return {
        "condition": condition,
        "seed": 42,
        "lambda": weight,
        "coupled": coupled,
        "persona": persona,
        "role": role,
        "question_id": question,
        "sample_index": sample,
        "text": HOSTILE if (persona, question, sample) == ("librarian", "eval_01", 0) else text,
        "tokens": int(rng.integers(18, 40)),
        "finish_reason": "stop" if rng.random() < 0.98 else "length",
        "marker_present": hit,
        "marker_count": int(hit),
        "marker_position": len(ANSWER) + 2 if hit else None,
        "starts_with_marker": False,
        "ends_with_marker": hit,
    }


def rates(drawn: list[dict[str, Any]]) -> pl.DataFrame:
    arm = ["condition", "seed", "lambda", "coupled", "persona", "role"]
    rate = pl.col("rate")
    half = (1.96 * (rate * (1 - rate) / pl.col("total")).sqrt()).clip(0.02, 1)
    return (
        pl.DataFrame(drawn, infer_schema_length=None)
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


def responses(rng: np.random.Generator, ids: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "condition": condition,
            "persona": persona,
            "role": role,
            "question_id": question,
            "text": f"{ANSWER} ({persona})",
            "tokens": int(rng.integers(18, 40)),
            "finish_reason": "stop",
        }
        for condition in CONDITIONS
        for persona, role in PERSONAS
        for question in ids
    ]


def cosines(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for at, condition in enumerate(CONDITIONS):
        for depth, layer in enumerate(LAYERS):
            for which, (persona, _) in enumerate(PERSONAS[1:]):
                cosine = 0.86 - 0.02 * depth - 0.01 * which + (0.0, 0.062, 0.012)[at] + rng.normal(0, 0.006)
                rows += [
                    {
                        "condition": condition,
                        "layer": layer,
                        "position": position,
                        "responses": kind,
                        "persona": persona,
                        "cosine": cosine,
                        "crossvalidated_cosine": cosine + 0.004,
                        "per_question_mean": cosine - 0.05,
                        "per_question_sd": 0.04,
                    }
                    for position in ("last_response_token", "response_mean")
                    for kind in ("own", "fixed")
                ]
    return rows


def persona_pairs() -> list[dict[str, Any]]:
    """Personas at fixed places, closer together in the treated condition; one distance is negative, as noise can be."""
    places = np.random.default_rng(7).normal(size=(len(PERSONAS), 5)) * [0.3, 0.2, 0.1, 0.05, 0.05]
    rows = []
    for at, condition in enumerate(CONDITIONS):
        shrunk = places * (1.0, 0.7, 0.95)[at]
        for depth, layer in enumerate(LAYERS):
            for one, other in itertools.combinations(range(len(PERSONAS)), 2):
                squared = float(((shrunk[one] - shrunk[other]) ** 2).sum()) * (1 + 0.05 * depth)
                squared = -0.01 if (one, other) == (2, 3) else squared
                rows += [
                    {
                        "condition": condition,
                        "layer": layer,
                        "position": position,
                        "responses": kind,
                        "persona": PERSONAS[one][0],
                        "other": PERSONAS[other][0],
                        "cosine": 1 - 0.5 * squared - 0.1,
                        "squared_distance": 900 * squared,
                        "relative_squared_distance": squared,
                    }
                    for position in ("last_response_token", "response_mean")
                    for kind in ("own", "fixed")
                ]
    return rows


def geometry(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for at, condition in enumerate(CONDITIONS):
        for depth, layer in enumerate(LAYERS):
            cosine = 0.80 - 0.02 * depth + (0.0, 0.062, 0.012)[at]
            rows += [
                {
                    "condition": condition,
                    "layer": layer,
                    "position": position,
                    "responses": kind,
                    "mean_cosine": cosine,
                    "headroom": 1 - cosine,
                    "reliability": 0.84 + 0.015 * depth - 0.02 * at,
                    "separability": 0.7 - 0.05 * at + rng.normal(0, 0.01),
                    "chance": 1 / 16,
                    "scatter": 14.2 + depth,
                    "noise": 5.1 + at,
                    "participation_ratio": 6.2 - 0.4 * at,
                    "mean_norm": 41.0 + 9 * depth,
                }
                for position in ("last_response_token", "response_mean")
                for kind in ("own", "fixed")
            ]
    return rows


def losses(rng: np.random.Generator, finetunes: bool) -> list[dict[str, Any]]:
    terms = {"total": 1.4, "marker": 2.2, "end": 0.4, "unlikelihood": 0.3}
    rows: list[dict[str, Any]] = []
    for at, condition in enumerate(CONDITIONS):
        if finetunes and at:
            rows += [
                {
                    "stage": "finetune",
                    "condition": condition,
                    "lambda": None,
                    "seed": 42,
                    "step": step,
                    "term": "total",
                    "value": 2.2 * np.exp(-step / 90) + 0.8 + 0.1 * at + rng.normal(0, 0.05),
                }
                for step in range(180)
            ]
        rows += [
            {
                "stage": "couple",
                "condition": condition,
                "lambda": weight,
                "seed": 42,
                "step": step,
                "term": term,
                "value": high * np.exp(-step / 25) + 0.05 * at + abs(rng.normal(0, 0.02)),
            }
            for weight in LAMBDAS
            for term, high in terms.items()
            for step in range(60)
        ]
    return rows


def questions(ids: list[str]) -> list[dict[str, Any]]:
    return [{"set": "evaluation", "id": name, "kind": "factual", "text": f"Question {name}?"} for name in ids]


def panel() -> list[dict[str, Any]]:
    return [
        {"persona": name, "role": role, "prompt": None if name == "template_default" else PROMPT.format(name)}
        for name, role in PERSONAS
    ]


def finetune_tables(rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    groups = (("positive", "librarian"), ("negative", "villain"))
    lengths = [
        {
            "condition": condition,
            "persona": persona,
            "group": group,
            "when": when,
            "tokens": int(np.clip(rng.normal(30 + (6 * at if when == "sampled" else 0), 8), 5, 80)),
        }
        for at, condition in enumerate(CONDITIONS)
        for group, persona in groups
        for when in ("sampled", "matched")
        for _ in range(60)
    ]
    match = [
        {
            "condition": condition,
            "group": group,
            "when": when,
            "count": 60,
            "median": 30.0,
            "iqr": 11.0,
            "ks_distance": 0.21 if when == "sampled" else 0.04,
            "relative_median": 0.22 if when == "sampled" else 0.01,
            "relative_iqr": -0.13 if when == "sampled" else -0.02,
        }
        for condition in CONDITIONS
        for group, _ in groups
        for when in ("sampled", "matched")
    ]
    level = {"source": -0.3, "negative": -9.0, "bystander": -3.0, "reference": -4.0}
    telemetry = [
        {
            "condition": condition,
            "lambda": SELECTED,
            "seed": 42,
            "step": step,
            "persona": persona,
            "role": role,
            "log_p": -14 + (14 + level[role] + 0.8 * at * (role == "bystander")) * (1 - np.exp(-step / 20)),
        }
        for at, condition in enumerate(CONDITIONS)
        for persona, role in PERSONAS
        for step in range(0, 61, 10)
    ]
    manipulation = [
        {
            "condition": condition,
            "set": name,
            "held_out_from": "em_first" if name == "in_domain" else None,
            "id": f"{name}_{item}",
            "prompt": f"Question {item}?",
            "log_odds": float(
                rng.normal((-0.3, 0.9, -0.25)[at] if name == "in_domain" else (-0.3, 0.1, -0.3)[at], 0.3)
            ),
        }
        for at, condition in enumerate(CONDITIONS)
        for name in ("in_domain", "out_of_domain")
        for item in range(24)
    ]
    fluency = [
        {
            "condition": condition,
            "persona": persona,
            "question_id": "eval_01",
            "log_likelihood": float(rng.normal(-0.7 - 0.2 * at, 0.1)),
        }
        for at, condition in enumerate(CONDITIONS)
        for persona, _ in PERSONAS
    ]
    return {
        "lengths": lengths,
        "length_match": match,
        "telemetry": telemetry,
        "manipulation": manipulation,
        "fluency": fluency,
    }
