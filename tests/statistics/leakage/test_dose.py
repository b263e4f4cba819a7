from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from flatprobe.statistics.leakage.dose import dose_gap, dose_response, shared_levels

BYSTANDERS = ("archivist", "journalist")
Curve = Callable[[int], tuple[float, float]]


def telemetry(condition: str, curve: Curve, steps: int = 4, questions: int = 3, **columns: Any) -> pl.DataFrame:
    """Readings whose means over questions are `curve(step)` = (source, bystanders); questions and personas differ."""
    rows: list[dict[str, Any]] = []
    for step in range(steps):
        source, leakage = curve(step)
        for q in range(questions):
            shift = q - (questions - 1) / 2
            rows.append({"persona": "librarian", "log_p": source + shift})
            rows += [{"persona": b, "log_p": leakage + shift + d} for b, d in zip(BYSTANDERS, (-2, 2), strict=True)]
            rows.append({"persona": "villain", "log_p": -90.0})
            for row in rows[-4:]:
                row |= {"condition": condition, "step": step, "question_id": f"q{q}", **columns}
    return pl.DataFrame(rows)


def line(step: int) -> tuple[float, float]:
    return -10.0 + 3.0 * step, -20.0 + 2.0 * step


def test_a_curve_is_the_means_of_source_and_bystanders_at_every_step() -> None:
    frame = dose_response(telemetry("base", line), "librarian", BYSTANDERS)
    assert frame["step"].to_list() == [0, 1, 2, 3]
    assert frame["source_log_p"].to_list() == pytest.approx([-10.0, -7.0, -4.0, -1.0])
    assert frame["leakage_log_p"].to_list() == pytest.approx([-20.0, -18.0, -16.0, -14.0])
    assert frame["gap_log_p"].to_list() == pytest.approx([10.0, 11.0, 12.0, 13.0])
    first = sum(math.exp(-10.0 + shift) for shift in (-1, 0, 1)) / 3
    assert frame["source_p"][0] == pytest.approx(first)


def test_couplings_of_several_seeds_and_lambdas_keep_their_own_curves() -> None:
    both = pl.concat([telemetry("base", line, seed=seed).with_columns(pl.lit(0.5).alias("lambda")) for seed in (1, 2)])
    frame = dose_response(both, "librarian", BYSTANDERS)
    assert frame.select("condition", "lambda", "seed").unique().height == 2
    assert frame.height == 8


def test_the_gap_is_the_vertical_distance_of_two_lines_at_equal_acquisition() -> None:
    def treated(step: int) -> tuple[float, float]:  # learns half as fast, and leaks 1.5 nats more at equal dose
        source = -10.0 + 1.5 * step
        return source, -20.0 + 2.0 * (source + 10.0) / 3.0 + 1.5

    frame = pl.concat([telemetry("base", line), telemetry("em", treated, steps=8)])
    found = dose_gap(
        frame, "em", "base", "librarian", BYSTANDERS, at=-3.3, resamples=500, seed=0
    , level=0.95)  # fmt: skip
    assert found.gap == pytest.approx(1.5)
    assert found.control_log_p == pytest.approx(-20.0 + 2.0 * 6.7 / 3.0)
    assert found.ci_low is not None and found.ci_high is not None
    assert found.n_questions == 3
    later = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=-5.0, resamples=200, seed=0, level=0.95)
    assert later.gap == pytest.approx(1.5)


def test_questions_that_shift_source_and_leakage_alike_leave_the_gap_without_error() -> None:
    frame = pl.concat([telemetry("base", line, steps=30), telemetry("em", lambda s: (line(s)[0], line(s)[1] + 1), 30)])
    found = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=30.0, resamples=300, seed=1, level=0.95)
    assert (found.ci_low, found.gap, found.ci_high) == (
        pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0),
    )  # fmt: skip


def test_a_curve_that_turns_back_is_read_where_it_first_passes() -> None:
    path = [(-10.0, -20.0), (-4.0, -14.0), (-8.0, -2.0), (-2.0, -1.0)]
    frame = pl.concat([telemetry("base", lambda s: path[s]), telemetry("em", lambda s: path[s])])
    found = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=-7.0, resamples=50, seed=0, level=0.95)
    assert found.control_log_p == pytest.approx(-17.0)


def test_a_level_that_a_condition_does_not_reach_has_no_gap_and_says_so() -> None:
    frame = pl.concat([telemetry("base", line), telemetry("em", lambda step: (line(step)[0] - 5.0, -20.0))])
    found = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=-3.0, resamples=50, seed=0, level=0.95)
    assert found.gap is None and found.ci_low is None and found.treated_log_p is None
    assert found.note == "the source of em does not pass -3 nats"
    below = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=-12.0, resamples=50, seed=0, level=0.95)
    assert below.note == "the source of base does not pass -12 nats"
    curves = dose_response(frame, "librarian", BYSTANDERS)
    assert shared_levels(curves, "em", "base") == (pytest.approx(-10.0), pytest.approx(-6.0))
    assert shared_levels(curves, "em", "nobody") is None


def test_resamples_that_miss_the_level_widen_the_interval_and_are_counted() -> None:
    frame = pl.concat([telemetry("base", line, questions=4), telemetry("em", line, questions=4)])
    found = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=-1.0, resamples=400, seed=0, level=0.95)
    assert found.gap == pytest.approx(0.0)
    assert found.undefined > 20 and found.ci_low is None and found.ci_high is None
    assert found.note == f"{found.undefined} of 400 resamples do not pass -1 nats"


def test_one_question_has_a_gap_and_no_interval() -> None:
    frame = pl.concat([telemetry("base", line, questions=1), telemetry("em", line, questions=1)])
    found = dose_gap(frame, "em", "base", "librarian", BYSTANDERS, at=-4.0, resamples=50, seed=0, level=0.95)
    assert found.gap == pytest.approx(0.0) and found.ci_low is None
    assert found.note == "one question: no interval"


def test_a_reading_that_one_condition_lacks_is_left_out_of_both() -> None:
    em = telemetry("em", line).with_columns(
        log_p=pl.when((pl.col("persona") == "archivist") & (pl.col("question_id") == "q0"))
        .then(pl.col("log_p") - 100)
        .otherwise(pl.col("log_p"))
    )
    lost = (pl.col("persona") == "archivist") & (pl.col("question_id") == "q0")
    base = telemetry("base", line).filter(~lost)
    found = dose_gap(
        pl.concat([base, em]), "em", "base", "librarian", BYSTANDERS, at=-4.0, resamples=9, seed=0, level=0.95
    )
    assert found.n_questions == 3 and found.gap == pytest.approx(0.0, abs=1e-9)
    sourceless = base.filter(~((pl.col("persona") == "librarian") & (pl.col("question_id") == "q1")))
    fewer = dose_gap(
        pl.concat([sourceless, em]), "em", "base", "librarian", BYSTANDERS, at=-4.0, resamples=9, seed=0, level=0.95
    )
    assert fewer.n_questions == 2


def test_two_couplings_at_once_or_half_of_one_are_refused() -> None:
    frame = pl.concat([telemetry("base", line), telemetry("em", line)])
    gone = (pl.col("step") == frame["step"].max()) & (pl.col("condition") == "em")
    half = frame.filter(~(gone & (pl.col("persona") == "archivist")))
    with pytest.raises(ValueError, match="give one complete coupling"):
        dose_gap(half, "em", "base", "librarian", BYSTANDERS, at=-4.0, resamples=9, seed=0, level=0.95)
    with pytest.raises(ValueError, match="give one complete coupling"):
        dose_gap(
            pl.concat([frame, frame]), "em", "base", "librarian", BYSTANDERS, at=-4.0, resamples=9, seed=0, level=0.95
        )
