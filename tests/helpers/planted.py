"""Writes a small planted analysis folder, as a finished run leaves it.

The numbers are drawn so that they look like a study's, but nothing is estimated here: the report shows what
stands in the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import planted_couplings
import planted_robustness
import planted_rows
import polars as pl
from planted_robustness import EFFECTS
from planted_rows import CONDITIONS, LAMBDAS, LAYERS, ROLES, SELECTED
from planted_tokens import audit, preview_row

from flatprobe.decision.evidence import Contrast, behavioural_evidence, geometric_evidence
from flatprobe.decision.gates import gate, required
from flatprobe.decision.rule import decide
from flatprobe.statistics.estimate import Estimate, write_json
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.study.decision_schema import Decision
from flatprobe.study.schema import Condition, FinetuneData, Geometry, Leakage, Model, Panel, Study

STATISTICS = {"spam": 0.02, "truncation": 0.01, "analysis": 1.0}


def write_planted(folder: Path, *, questions: int = 3, samples: int = 2, finetunes: bool = True) -> Path:
    """Write every file of an analysis folder; without finetunes the optional tables are absent."""
    rng = np.random.default_rng(42)
    (folder / "tables").mkdir(parents=True)
    study = planted_study(finetunes)
    ids = [f"eval_{index:02d}" for index in range(1, questions + 1)]
    drawn = planted_rows.completions(rng, ids, samples)
    tables = {
        "completions": drawn,
        "rates": planted_rows.rates(drawn),
        "responses": planted_rows.responses(rng, ids),
        "cosines": planted_rows.cosines(rng),
        "persona_pairs": planted_rows.persona_pairs(),
        "geometry": planted_rows.geometry(rng),
        "losses": planted_rows.losses(rng, finetunes),
        "questions": planted_rows.questions(ids),
        "panel": planted_rows.panel(),
        "specifications": planted_robustness.specifications(),
        "leave_one_out": planted_robustness.left_out(),
        "multiplicity": planted_robustness.multiplicity(),
        "massive": planted_robustness.massive(),
        "relative_leakage": planted_robustness.relative_leakage(),
        **planted_couplings.tables(),
    }
    if finetunes:
        tables |= planted_rows.finetune_tables(rng)
    for name, rows in tables.items():
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "tables" / f"{name}.parquet")
    for name, document in _documents(study).items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    write_json(_estimates(), folder / "estimates.json")
    return folder


def _documents(study: Study) -> dict[str, Any]:
    """Every JSON file but the estimates, by name."""
    return {
        "study": study.model_dump(mode="json"),
        "registration": {"digest": "ab" * 32, "registered": "confirmatory", "time": "2025-01-31T12:00:00+00:00"},
        "verdict": _verdict(study.decision),
        "stages": _stages(),
        "provenance": {
            "flatprobe": "0.1.0",
            "commit": {"revision": "c" * 40, "dirty": False},
            "python": "3.11.9",
            "packages": {"torch": "2.8.0", "transformers": "4.56.0"},
            "platform": "Linux-6.1-x86_64",
            "cpu_count": 2,
            "threads": None,
            "gpus": [],
        },
        "models": {
            name: {
                "origin": "the study's model" if name == CONDITIONS[0] else "finetune",
                "fingerprint": f"{at:064x}",
                "facts": {"steps": 375, "modules": ["q_proj", "v_proj"], "frozen": []},
                "merge_kl": None if name == CONDITIONS[0] else 1.2e-5,
                "couplings": [planted_couplings.found(name)],
            }
            for at, name in enumerate(CONDITIONS)
        },
        "audit": audit(),
        "lambda": {
            "selected": SELECTED,
            "candidates": [
                {
                    "lambda": weight,
                    "source_rate": 0.8 + 0.02 * at,
                    "negative_rate": 0.1 - 0.03 * at,
                    "difference": 0.7 + 0.05 * at,
                    "standard_error": 0.05 if at else None,
                    "tie_error": 0.05 if at else 0.02,
                }
                for at, weight in enumerate(LAMBDAS)
            ],
        },
        "preview": {"last_response_token": [preview_row(7)], "response_mean": [preview_row(6)]},
    }


def planted_study(finetunes: bool = True) -> Study:
    made = {
        "em_first": Condition(finetune=FinetuneData(path="embedded:careless", completion="misaligned", rows=300)),
        "benign_first": Condition(finetune=FinetuneData(path="embedded:everyday", rows=300)),
    }
    given = {name: Condition(adapter=f"adapters/{name}") for name in made}
    return Study(
        name="planted",
        description="Does careless advice flatten persona space? Planted: both effects are there by design.",
        model=Model(id="embedded:smollm2-135m-instruct"),
        panel=Panel(bystanders=ROLES["bystander"], reserve=("truck_driver",)),
        conditions={"base_first": Condition(), **(made if finetunes else given)},
        geometry=Geometry(layers=LAYERS),
        leakage=Leakage(samples=2),
        decision=Decision(),
    )


def _estimates() -> list[Estimate]:
    """Plausible estimates of every estimator and measure, for the three contrasts."""
    rows: list[Estimate] = []
    for ((treated, control), (leak, cosine)), scale in zip(EFFECTS.items(), (0.93, 0.7, 0.2), strict=True):
        shared: dict[str, Any] = {
            "treated": treated,
            "control": control,
            "contrast": f"{treated} - {control}",
            "n_questions": 20,
        }
        for at, (estimator, scope) in enumerate(SCOPES.items()):
            error = 0.022 + 0.01 * at
            unknown = estimator == "two_way_cluster_t"
            numbers: dict[str, Any] = (
                {"note": "one persona only, so this estimator is not defined"}
                if unknown
                else {
                    "estimate": leak,
                    "standard_error": error,
                    "ci_low": leak - 2 * error,
                    "ci_high": leak + 2 * error,
                    "p_value": min(1.0, 2e-4 * 3**at),
                    "margin": 0.15,
                    "superiority_p": min(1.0, 3e-4 * 3**at),
                    "equivalence_margin": 0.05,
                    "equivalence_p": 0.97 - 0.01 * at,
                    **({"adjusted_p": 0.0006, "family": "max-T over 3 lambdas"} if at == 1 else {}),
                }
            )
            rows += [
                Estimate(
                    quantity="leakage_difference",
                    pool=pool,
                    contaminated=contaminated,
                    estimator=estimator,
                    scope=scope,
                    lambda_=weight,
                    n_personas=7,
                    df=19.0 if "_t" in estimator else None,
                    smallest_attainable_p=0.0156 if "sign" in estimator else None,
                    **shared,
                    **numbers,
                )
                for pool, contaminated in (("bystanders", False), ("as_written", True))
                for weight in LAMBDAS
            ]
        factors = {
            "cosine_difference": 1.0,
            "crossvalidated_cosine_difference": 0.9,
            "translation_share": 0.2,
            "noise_share": 0.1,
            "trimmed_cosine_difference": 0.8,
            "contraction": 5.0,
            "scatter_ratio": 12.0,
            "noise_ratio": 15.0,
            "contraction_minus_noise": 4.0,
        }
        for layer in (*LAYERS, None):
            for position in ("last_response_token", "response_mean"):
                for estimator in ("question_bootstrap", "question_jackknife_t"):
                    rows += [
                        Estimate(
                            quantity=name,
                            pool="bystanders",
                            estimator=estimator,
                            n_personas=7,
                            layer=layer,
                            scope="new questions, these personas, these checkpoints",
                            position=position,
                            responses="own",
                            estimate=cosine * factor + 0.0005 * (layer or 0),
                            standard_error=0.009 * factor,
                            ci_low=(cosine - 0.018 * scale) * factor,
                            ci_high=(cosine + 0.03) * factor,
                            p_value=0.001 + 0.0001 * (layer or 0),
                            adjusted_p=None if layer is None else 0.002 + 0.0001 * layer,
                            family=None if layer is None else "max-T over 6 layers",
                            resamples=2000,
                            bootstrap_bias=0.0004,
                            outside_own_interval=False,
                            **shared,
                        )
                        for name, factor in factors.items()
                    ]
    return rows


def _verdict(rule: Decision) -> dict[str, Any]:
    """The rule applied to the planted estimates, every gate but a warning passed."""

    def contrast(treated: str, control: str) -> Contrast:
        name = f"{treated} - {control}"
        rows = [row for row in _estimates() if row.lambda_ in (None, SELECTED)]
        return Contrast(
            geometric_evidence(rows, rule, name, headroom=0.25),
            behavioural_evidence(rows, rule, name, "bystanders", source_rate_treated=0.91, source_rate_control=0.88),
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
    written = verdict.to_json()
    written["numbers"]["manipulation"] = {"em_first": "broad", "benign_first": "none"}
    return written


def _stages() -> list[dict[str, Any]]:
    names = ["finetune/em_first/seed-42", "finetune/benign_first/seed-42"]
    names += [f"couple/{name}/lambda-{weight:g}/seed-42" for name in CONDITIONS for weight in LAMBDAS]
    return [
        {
            "name": name,
            "key": f"{at:064x}",
            "function": "flatprobe.training.lora:train_lora",
            "seconds": 61.4 * (at + 1),
        }
        for at, name in enumerate(names)
    ]
