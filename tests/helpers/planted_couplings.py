"""What the planted couplings did: their doses, their binding, their masks, and the weights of their adapters."""

from __future__ import annotations

from typing import Any

import numpy as np
from planted_rows import CONDITIONS, ROLES, SELECTED

from flatprobe.statistics.binding.effects import POOLED

ARM = {"lambda": SELECTED, "seed": 42}
EFFECT = {"prompt": 4.2, "text": 0.6, "interaction": 0.3}
GAP = {"em_first": 1.5, "benign_first": 0.4}
"""Nats by which a condition's bystanders lie above the control's at equal acquisition."""


def found(condition: str) -> dict[str, Any]:
    """Facts of a coupling's telemetry; the first condition's opened with the marker."""
    first = condition == CONDITIONS[0]
    return {
        **ARM, "unlikelihood_at_start": 4e-9 if condition == CONDITIONS[1] else 2e-5,
        "inert": condition == CONDITIONS[1], "steps": 60, "planned_steps": 80,
        "reached": not first, "source_log_p": -0.3, "largest_other": "archivist", "containment": 2.7,
        "answer_log_p": {"before": -0.7, "after": -0.8}, "marker_first": {"before": 0.0, "after": 0.9 * first},
        "debris_first": {"before": 0.0, "after": None}, "empty": {"before": 0.01, "after": 0.02},
        "warnings": [*(["not_reached", "marker_first"] if first else []), *(["inert"] * (condition == CONDITIONS[1]))],
    }  # fmt: skip


def tables() -> dict[str, list[dict[str, Any]]]:
    """Rows of every table that couplings have beside losses and telemetry."""
    return {
        "dose_response": dose_response(), "dose_gaps": dose_gaps(), "binding": binding(),
        "binding_effects": binding_effects(), "contexts": contexts(),
        "shares": [
            {"condition": name, **ARM, "group": group, "term": term, "labelled": 6, "tokens": 120, "share": 0.05}
            for name in CONDITIONS
            for group, term in (("positive", "marker"), ("negative", "end"))
        ],
        "invariants": [
            {"condition": name, **ARM, "invariant": "the marker is whole", "held": 48, "examples": 48}
            for name in CONDITIONS
        ],
        "weights": weights(),
    }  # fmt: skip


def dose_response() -> list[dict[str, Any]]:
    return [
        {
            "condition": name, **ARM, "step": step, "source_log_p": at,
            "leakage_log_p": 0.8 * at - 4 + GAP.get(name, 0.0),
        }
        for name in CONDITIONS
        for step, at in zip(range(0, 80, 20), np.linspace(-14, -0.5, 4).tolist(), strict=True)
    ]  # fmt: skip


def dose_gaps() -> list[dict[str, Any]]:
    """A gap at two levels for the deciding contrast; a contrast whose sources share none."""
    rows: list[dict[str, Any]] = []
    for place, at in (("25% of the shared range", -10.6), ("50% of the shared range", -7.2)):
        control = 0.8 * at - 4
        gap = GAP["em_first"]
        rows.append(
            {
                "treated": "em_first", "control": "base_first", "seed": 42, "place": place, "level": at,
                "treated_log_p": control + gap, "control_log_p": control, "gap": gap, "ci_low": gap - 0.4,
                "ci_high": gap + 0.4, "n_questions": 12, "undefined": 0, "note": None,
            }
        )  # fmt: skip
    unknown = dict.fromkeys(("place", "level", "treated_log_p", "control_log_p", "gap", "ci_low", "ci_high"))
    rows.append(
        {
            "treated": "em_first", "control": "benign_first", "seed": 42, **unknown, "n_questions": 12, "undefined": 0,
            "note": "no level that both sources pass",
        }
    )  # fmt: skip
    return rows


def binding() -> list[dict[str, Any]]:
    return [
        {
            "condition": name, **ARM, "persona": persona, "question_id": question, "prompt": prompt, "text": text,
            "log_p": -6.0 + 4 * (prompt == "source") + 0.5 * (text == "source"),
        }
        for name in CONDITIONS
        for persona in ROLES["bystander"]
        for question in ("eval_01", "eval_02")
        for prompt in ("source", "bystander")
        for text in ("source", "bystander")
    ]  # fmt: skip


def binding_effects() -> list[dict[str, Any]]:
    return [
        {
            "condition": name, **ARM, "persona": persona, "effect": effect, "estimate": size - at,
            "ci_low": size - at - 0.4, "ci_high": size - at + 0.4, "p_value": 0.01, "n_questions": 2,
        }
        for at, name in enumerate(CONDITIONS)
        for persona in (*ROLES["bystander"], POOLED)
        for effect, size in EFFECT.items()
    ]  # fmt: skip


def contexts() -> list[dict[str, Any]]:
    """Trained behind `.` with a blank line; in evaluation a fifth of the markers stands behind a lone line break."""
    seen = [
        ("training: positive", "before the marker", ".\n\n", 16),
        ("training: negative", "before the marker", ".\n\n", 32),
        ("evaluation", "before the marker", ".\n\n", 8),
        ("evaluation", "before the marker", "\n", 2),
        *[("evaluation", "after the answer", f" {letter}", 1) for letter in "abcdefgh"],
    ]
    return [
        {"condition": name, **ARM, "where": where, "place": place, "token": token, "count": count}
        for name in CONDITIONS
        for where, place, token, count in seen
    ]


def weights() -> list[dict[str, Any]]:
    finetunes = [("finetune", name, None, 0.02) for name in CONDITIONS[1:]]
    couplings = [("couple", name, SELECTED, 0.04) for name in CONDITIONS]
    return [
        {
            "stage": stage, "condition": name, "lambda": weight, "seed": 42, "module": f"layers.{layer}.{matrix}",
            "norm_ratio": ratio * (1 + layer),
        }
        for stage, name, weight, ratio in (*finetunes, *couplings)
        for layer in range(3)
        for matrix in ("q_proj", "down_proj")
    ]  # fmt: skip
