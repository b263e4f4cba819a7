"""Rows of the planted tables that say what a result hangs on: specifications, one left out, chosen among several,
massive dimensions."""

from __future__ import annotations

from typing import Any

import polars as pl
from planted_rows import CONDITIONS, LAMBDAS, LAYERS, ROLES, SELECTED

from flatprobe.statistics.estimate import Estimate, estimates_frame
from flatprobe.statistics.leakage.estimators import SCOPES

EFFECTS = {
    ("em_first", "base_first"): (0.302, 0.0641),
    ("em_first", "benign_first"): (0.243, 0.049),
    ("benign_first", "base_first"): (0.059, 0.0129),
}
"""Leakage difference and cosine difference of each contrast."""


def specifications() -> list[dict[str, Any]]:
    rows = []
    for (treated, control), (leak, _) in EFFECTS.items():
        for pool, contaminated in (("bystanders", False), ("as_written", True)):
            for weight in LAMBDAS:
                for detector in ("strict", "end_anchored"):
                    for at, (estimator, scope) in enumerate(SCOPES.items()):
                        estimate = (
                            leak - 0.08 * contaminated + 0.05 * (SELECTED - weight) - 0.02 * (detector != "strict")
                        )
                        error = 0.02 + 0.01 * at
                        known = estimator != "two_way_cluster_t"
                        rows.append(
                            {
                                "contrast": f"{treated} - {control}",
                                "pool": pool,
                                "contaminated": contaminated,
                                "lambda": weight,
                                "detector": detector,
                                "estimator": estimator,
                                "scope": scope,
                                "estimate": estimate if known else None,
                                "standard_error": error if known else None,
                                "ci_low": estimate - 2 * error if known else None,
                                "ci_high": estimate + 2 * error if known else None,
                                "p_value": min(1.0, 2e-4 * 3**at) if known else None,
                                "n_personas": 7,
                                "n_questions": 20,
                                "note": None if known else "not estimated: one persona only",
                            }
                        )
    return rows


def left_out() -> list[dict[str, Any]]:
    """Without `lumberjack` and `eval_02` both effects fall most; no one persona or question is needed by both."""
    leak, cosine = EFFECTS["em_first", "base_first"]
    factors = {
        "persona": [(name, 0.01 * at) for at, name in enumerate(ROLES["bystander"], start=-3)],
        "question": [(f"eval_{at:02d}", 0.004 * at) for at in range(1, 21)],
    }
    factors["persona"] = [(name, -0.6 if name == "lumberjack" else by) for name, by in factors["persona"]]
    factors["question"] = [(name, -0.1 if name == "eval_02" else by) for name, by in factors["question"]]
    rows = []
    for kind, changes in factors.items():
        for name, change in changes:
            shared = {"kind": kind, "left_out": name}
            for estimator, error, p in (("crossed_anova", 0.08, 0.02), ("cell_bootstrap", 0.03, 0.0002)):
                without = leak * (1 + change)
                rows.append(
                    {
                        **shared,
                        "probe": "leakage",
                        "estimator": estimator,
                        "layer": None,
                        "estimate": without,
                        "ci_low": without - 2 * error,
                        "ci_high": without + 2 * error,
                        "p_value": p,
                        "difference": leak * change,
                    }
                )
            for layer in (*LAYERS, None):
                rows.append(
                    {
                        **shared,
                        "probe": "geometry",
                        "estimator": "cosine_difference",
                        "layer": layer,
                        "estimate": cosine * (1 + change / 4),
                        "ci_low": None,
                        "ci_high": None,
                        "p_value": None,
                        "difference": cosine * change / 4,
                    }
                )
    return rows


def relative_leakage() -> list[dict[str, Any]]:
    """Three conditions and a contrast; in the third condition the source never shows the marker."""
    names = (
        "treated", "control", "bystander_rate", "source_rate", "relative", "ci_low", "ci_high", "n_questions", "note",
    )  # fmt: skip
    rows = [
        ("em_first", None, 0.45, 0.9, 0.5, 0.4, 0.62, 20, None),
        ("base_first", None, 0.2, 0.8, 0.25, 0.125, 0.375, 20, None),
        ("benign_first", None, 0.0, 0.0, None, None, None, 20, "the source never shows the marker"),
        ("em_first", "base_first", None, None, 0.25, 0.125, 0.375, 20, None),
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]


def multiplicity() -> pl.DataFrame:
    """The registered estimator at every lambda and the deciding measure at two positions, p adjusted."""
    leak, cosine = EFFECTS["em_first", "base_first"]
    shared: dict[str, Any] = {
        "contrast": "em_first - base_first",
        "treated": "em_first",
        "control": "base_first",
        "pool": "bystanders",
        "scope": "new questions, these personas, these checkpoints",
    }
    by_lambda = [
        Estimate(
            quantity="leakage_difference", estimator="cell_bootstrap", lambda_=weight,
            estimate=leak + 0.05 * (SELECTED - weight), ci_low=0.2, ci_high=0.4, p_value=0.0004,
            adjusted_p=0.0012, family="Holm over 3 lambdas", **shared,
        )
        for weight in LAMBDAS
    ]  # fmt: skip
    by_position = [
        Estimate(
            quantity="cosine_difference", estimator="question_bootstrap", position=position, layer=layer,
            responses="own", estimate=cosine + 0.001 * layer, ci_low=0.02, ci_high=0.09, p_value=0.003,
            adjusted_p=0.011, family="max-T over 12 positions and layers", **shared,
        )
        for position in ("last_response_token", "response_mean")
        for layer in LAYERS
    ]  # fmt: skip
    return estimates_frame([*by_lambda, *by_position])


def massive() -> list[dict[str, Any]]:
    return [
        {
            "condition": condition,
            "position": position,
            "responses": kind,
            "layer": layer,
            "rank": rank,
            "dimension": dimension,
            "mean_absolute": 300.0 / rank,
            "ratio_to_median": 240.0 / rank + at,
            "share_of_squared_norm": 0.3 / rank,
        }
        for at, condition in enumerate(CONDITIONS)
        for layer in LAYERS
        for position in ("last_response_token", "response_mean")
        for kind in ("own", "fixed")
        for rank, dimension in ((2, 2570), (1, 458), (3, 11))
    ]
