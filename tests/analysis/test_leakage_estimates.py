"""Training runs as a random factor: every contrast that is decided has the estimates."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from flatprobe.analysis.leakage_estimates import leakage_rows
from flatprobe.planner.contracts import EstimateSettings
from flatprobe.study.decision_schema import BehaviouralLeg, Decision, KnownAnswer

BYSTANDERS = ("archivist", "journalist", "lumberjack")
RULE = Decision(
    benign=None, behaviour=BehaviouralLeg(resamples=200),
    known_answers=(KnownAnswer(treated="again", control="base_first", leakage="not_found"),),
)  # fmt: skip
RISES = {"base_first": (0, 0, 0), "em_first": (2, 3, 4), "again": (1, -1, 0)}  # hits of ten, by seed


def cells() -> pl.DataFrame:
    generator = np.random.default_rng(3)
    common = generator.integers(1, 6, size=(len(BYSTANDERS), 4))
    return pl.DataFrame(
        {
            "condition": condition, "seed": seed, "lambda": 1.0, "coupled": True, "persona": persona,
            "question_id": f"q{q}", "hits": int(common[p, q]) + rise, "total": 10,
        }
        for condition, rises in RISES.items()
        for seed, rise in enumerate(rises)
        for p, persona in enumerate(BYSTANDERS)
        for q in range(4)
    )  # fmt: skip


def test_every_contrast_that_is_decided_has_them() -> None:
    settings = EstimateSettings(
        rule=RULE, source="librarian", bystanders=BYSTANDERS, pools={}, trained=("librarian",),
        geometry_resamples=10, reliability_splits=10, seed=1, stop_at=None, entries=(),
    )  # fmt: skip
    rows = [row for row in leakage_rows(settings, cells(), 1.0) if row.estimator == "seed_t"]
    found = {row.contrast: row for row in rows if row.seed is None}
    main, known = found["em_first - base_first"], found["again - base_first"]
    assert main.estimate == pytest.approx(0.3) and known.estimate == pytest.approx(0.0)
    # Seeds differ by .1: SE .1 / sqrt 3, and t with 2 df.
    assert main.p_value == pytest.approx(0.0351, abs=5e-4) and known.p_value == pytest.approx(1.0)
    assert main.scope.startswith("new training runs")
