"""Dose and response: the marker's log-probability under bystanders against that under the source.

All readings are teacher-forced: log P(separator, marker | own answer), in nats, at the steps of a coupling. Two
conditions at the same step may differ in how well the source has learnt the marker. At equal acquisition by the source,
their leakage can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array, multinomial_weights, percentile_summary

RUN = ("condition", "lambda", "seed")


@dataclass(frozen=True, kw_only=True)
class DoseGap:
    """Vertical distance between two dose-response curves at one acquisition of the source."""

    treated: str
    control: str
    level: float
    """Mean log P of the source, in nats, at which both curves are read."""
    treated_log_p: float | None = None
    """Leakage of the treated condition there: mean log P over bystanders and questions, in nats."""
    control_log_p: float | None = None
    gap: float | None = None
    """Treated minus control, in nats; None where a curve does not reach the level."""
    ci_low: float | None = None
    ci_high: float | None = None
    """Percentile interval over questions, the same draws for both conditions, source and bystanders. None with fewer
    than two questions, and where resamples that do not reach the level extend into the tail."""
    n_questions: int = 0
    undefined: int = 0
    """Resamples in which a curve does not reach the level."""
    note: str | None = None
    """Why a number is None."""


def dose_response(telemetry: pl.DataFrame, source: str, bystanders: Sequence[str]) -> pl.DataFrame:
    """One row per coupling and step.

    Args:
        telemetry: (condition, step, persona, question_id, log_p), and `lambda` and `seed` where there are several.

    Returns:
        `condition` (with `lambda` and `seed` where given), `step`, and means over personas and questions:
        `source_log_p`, `leakage_log_p`, in nats; `source_p`, `leakage_p`, of the probabilities themselves;
        `gap_log_p` = source_log_p - leakage_log_p, the source's lead over the bystanders.
    """
    run = [name for name in RUN if name in telemetry.columns]
    is_source, leaks = pl.col("persona") == source, pl.col("persona").is_in(list(bystanders))
    return (
        telemetry.filter(is_source | leaks)
        .group_by(*run, "step")
        .agg(
            source_log_p=pl.col("log_p").filter(is_source).mean(),
            leakage_log_p=pl.col("log_p").filter(leaks).mean(),
            source_p=pl.col("log_p").filter(is_source).exp().mean(),
            leakage_p=pl.col("log_p").filter(leaks).exp().mean(),
        )
        .with_columns(gap_log_p=pl.col("source_log_p") - pl.col("leakage_log_p"))
        .sort(*run, "step")
    )


def shared_levels(curves: pl.DataFrame, treated: str, control: str) -> tuple[float, float] | None:
    """The range (lowest, highest) of source levels, in nats, that both conditions pass; None where there is none.

    `curves` is the `dose_response` of one coupling per condition.
    """
    ranges = [
        (float(levels.min()), float(levels.max()))  # type: ignore[arg-type]
        for name in (treated, control)
        for levels in [curves.filter(pl.col("condition") == name)["source_log_p"].drop_nulls()]
        if len(levels)
    ]
    if len(ranges) < 2:
        return None
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    return (low, high) if low <= high else None


def dose_gap(
    telemetry: pl.DataFrame,
    treated: str,
    control: str,
    source: str,
    bystanders: Sequence[str],
    *,
    at: float,
    resamples: int,
    seed: int,
    level: float,
) -> DoseGap:
    """Treated minus control leakage where both sources are at `at` nats, linear between the steps read.

    A curve that passes the level several times is read at the first passage, because matched acquisition stops there.
    Questions are resampled jointly. Only readings that both conditions have are used. Give one coupling per condition:
    filter by lambda and seed first.

    Raises:
        ValueError: a condition has several couplings, or a reading is missing at a step.
    """
    cells = shared_cells(telemetry, (treated, control), source, bystanders)
    tables = {name: _tables(telemetry, name, source, cells) for name in (treated, control)}
    n = cells["question_id"].n_unique()
    blank = DoseGap(treated=treated, control=control, level=at, n_questions=n)
    if n == 0:
        return replace(blank, note="no question that the source and a bystander answered in both")
    once = np.ones((1, n))
    values = {name: float(_leakage_at(*table, once, at)[0]) for name, table in tables.items()}
    reached = {name: None if np.isnan(value) else value for name, value in values.items()}
    blank = replace(blank, treated_log_p=reached[treated], control_log_p=reached[control])
    if short := [name for name, value in reached.items() if value is None]:
        return replace(blank, note=f"the source of {' and of '.join(short)} does not pass {at:g} nats")
    gap = values[treated] - values[control]
    if n < 2:
        return replace(blank, gap=gap, note="one question: no interval")
    generator = np.random.default_rng(seed)
    draws: Array = np.concatenate(
        [
            _leakage_at(*tables[treated], weights, at) - _leakage_at(*tables[control], weights, at)
            for weights in multinomial_weights(n, resamples, generator)
        ]
    )
    summary = percentile_summary(draws, gap, level)
    lost = summary.undefined
    return replace(
        blank,
        gap=gap,
        ci_low=summary.low,
        ci_high=summary.high,
        undefined=lost,
        note=f"{lost} of {resamples} resamples do not pass {at:g} nats" if lost else None,
    )


def shared_cells(
    telemetry: pl.DataFrame, conditions: Sequence[str], source: str, bystanders: Sequence[str]
) -> pl.DataFrame:
    """(persona, question_id) of each reading that all conditions have, on questions of the source and a bystander."""
    readings = telemetry.filter(
        pl.col("condition").is_in(list(conditions)) & pl.col("persona").is_in([source, *bystanders])
    )
    cells = (
        readings.select("condition", "persona", "question_id")
        .unique()
        .group_by("persona", "question_id")
        .len()
        .filter(pl.col("len") == len(set(conditions)))
    )
    is_source = pl.col("persona") == source
    whole = cells.group_by("question_id").agg(is_source.any() & is_source.not_().any()).filter("persona")
    return (
        cells.join(whole.select("question_id"), on="question_id", how="semi")
        .select("persona", "question_id")
        .sort("question_id", "persona")
    )


def _tables(telemetry: pl.DataFrame, condition: str, source: str, cells: pl.DataFrame) -> tuple[Array, Array]:
    """log P of the source, and mean log P of the bystanders in these cells, each of shape (steps, questions)."""
    readings = telemetry.filter(pl.col("condition") == condition).join(cells, on=["persona", "question_id"], how="semi")
    n_steps, n_questions = readings["step"].n_unique(), cells["question_id"].n_unique()

    def table(chosen: pl.DataFrame, n_cells: int) -> Array:
        if chosen.height != n_steps * n_cells:
            raise ValueError(
                f"telemetry of {condition}: {chosen.height} readings, not {n_steps} steps x {n_cells} cells; give one "
                "complete coupling"
            )
        means = chosen.group_by("step", "question_id").agg(pl.col("log_p").mean()).sort("step", "question_id")
        return means["log_p"].to_numpy().astype(np.float64).reshape(n_steps, n_questions)

    is_source = pl.col("persona") == source
    return (
        table(readings.filter(is_source), cells.filter(is_source).height),
        table(readings.filter(is_source.not_()), cells.filter(is_source.not_()).height),
    )


def _leakage_at(source: Array, leakage: Array, weights: Array, at: float) -> Array:
    """Leakage where the source first reaches `at`, for each row of question weights: shape (resamples,). NaN where the
    source never reaches it, or starts above it.

    Args:
        source, leakage: (steps, questions).
        weights: (resamples, questions).
    """
    totals = weights.sum(axis=1, keepdims=True)
    x, y = weights @ source.T / totals, weights @ leakage.T / totals  # (resamples, steps)
    reached = x >= at
    step = reached.argmax(axis=1)
    rows = np.arange(len(x))
    inside = reached.any(axis=1) & ((step > 0) | (x[rows, 0] == at))
    before = np.maximum(step - 1, 0)
    span = x[rows, step] - x[rows, before]
    share = np.divide(at - x[rows, before], span, out=np.ones_like(span), where=span > 0)
    values = y[rows, before] + share * (y[rows, step] - y[rows, before])
    return np.where(inside, values, np.nan)
