from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flatprobe.analysis.dose_estimates import curves, gaps
from flatprobe.analysis.estimate import _telemetry
from flatprobe.planner.contracts import EstimateSettings
from flatprobe.study.decision_schema import Decision

BYSTANDERS = ("archivist", "journalist")
HIGHER = {"em_first": 1.5, "base_first": 0.0}
TOP = {"em_first": -1.0, "base_first": -3.0}


def settings(stop_at: float | None = None) -> EstimateSettings:
    rule = Decision(benign=None)
    quick = rule.model_copy(update={"behaviour": rule.behaviour.model_copy(update={"resamples": 200})})
    return EstimateSettings(
        rule=quick, source="librarian", bystanders=BYSTANDERS, pools={}, trained=("librarian",),
        geometry_resamples=10, reliability_splits=10, seed=1, stop_at=stop_at, entries=(),
    )  # fmt: skip


def telemetry(**columns: Any) -> pl.DataFrame:
    """Sources rise evenly from -11 nats to their `TOP`; bystanders follow at half the pace, higher in the treated."""
    rows = []
    for condition, top in TOP.items():
        for step in range(5):
            source = -11.0 + (top + 11.0) * step / 4
            for question in range(4):
                levels = {"librarian": source, **dict.fromkeys(BYSTANDERS, source / 2 - 8 + HIGHER[condition])}
                rows += [
                    {
                        "condition": condition, "lambda": 1.0, "seed": 42, "step": step, "persona": persona,
                        "question_id": f"q{question}", "log_p": level + 0.1 * (question - 1.5), **columns,
                    }
                    for persona, level in levels.items()
                ]  # fmt: skip
    return pl.DataFrame(rows)


def test_the_gap_is_read_inside_the_range_that_both_sources_pass() -> None:
    found = gaps(settings(), telemetry(), 1.0)
    assert found["place"].to_list() == [f"{share}% of the shared range" for share in (25, 50, 75)]
    assert found["level"].to_list() == pytest.approx([-9.0, -7.0, -5.0])  # from -11 to the lower top, -3
    assert found["gap"].to_list() == pytest.approx([1.5] * 3)
    assert found.select((pl.col("ci_low") <= 1.5 + 1e-9) & (pl.col("ci_high") >= 1.5 - 1e-9)).to_series().all()


def test_matched_acquisition_is_compared_at_its_registered_level_first() -> None:
    first = gaps(settings(stop_at=-4.0), telemetry(), 1.0).row(0, named=True)
    assert (first["place"], first["level"]) == ("registered", -4.0)
    assert first["gap"] == pytest.approx(1.5)


def test_sources_that_share_no_level_have_a_row_that_says_so() -> None:
    shifted = pl.col("log_p") - pl.when(pl.col("condition") == "em_first").then(30.0).otherwise(0.0)
    (row,) = gaps(settings(), telemetry().with_columns(log_p=shifted), 1.0).to_dicts()
    assert row["gap"] is None
    assert row["note"] == "no level that both sources pass"


def test_only_the_selected_lambda_and_seeds_of_both_conditions_count() -> None:
    alone = telemetry(seed=43).filter(pl.col("condition") == "em_first")
    other = telemetry(**{"lambda": 0.5, "seed": 44})
    found = gaps(settings(), pl.concat([telemetry(), alone, other]), 1.0)
    assert set(found["seed"]) == {42}


def test_every_coupling_has_a_curve() -> None:
    both = pl.concat([telemetry(), telemetry(**{"lambda": 0.5})])
    assert curves(settings(), both).height == 2 * 2 * 5


def test_without_a_finished_answer_there_are_no_curves_and_no_gaps(tmp_path: Path) -> None:
    nothing = _telemetry(tmp_path / "telemetry.parquet")
    some, none = (curves(settings(), readings) for readings in (telemetry(), nothing))
    assert none.is_empty() and none.columns == some.columns
    assert gaps(settings(), nothing, 1.0).is_empty()
