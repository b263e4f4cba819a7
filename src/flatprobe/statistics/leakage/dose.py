"""Dose and response: how likely the marker is under bystanders, against how likely it is under the source.

Everything is teacher-forced: log P(separator, marker | own answer), read at the steps of a coupling. Two conditions
that stop at the same step may have learnt unequally; at the same acquisition by the source their leakage compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array, multinomial_weights, percentile_summary

RUN = ("condition", "lambda", "seed")


@dataclass(frozen=True)
class DoseGap:
    """Vertical distance of two dose-response curves at one level of the source."""

    treated: str
    control: str
    level: float
    """Mean log P of the source, in nats, at which both are read."""
    treated_log_p: float | None
    """Leakage of the treated condition there: mean log P over bystanders and questions, in nats."""
    control_log_p: float | None
    gap: float | None
    """Treated minus control, in nats; None where a curve does not reach the level."""
    ci_low: float | None
    ci_high: float | None
    """Percentile interval over questions, the same draws for both conditions, source and bystanders; None with fewer
    than two questions, and where resamples that do not reach the level extend into the tail."""
    n_questions: int
    undefined: int
    """Resamples in which a curve does not reach the level."""
    note: str | None = None
    """The reason, where a number is None."""


def dose_response(telemetry: pl.DataFrame, source: str, bystanders: Sequence[str]) -> pl.DataFrame:
    """One row per coupling and step.

    Args:
        telemetry: (condition, step, persona, question_id, log_p), and `lambda` and `seed` where there are several.

    Returns:
        `condition` (with `lambda` and `seed` where given), `step`, and means over personas and questions:
        `source_log_p`, `leakage_log_p`, in nats; `source_p`, `leakage_p`, of the probabilities themselves;
        `gap_log_p` = source_log_p - leakage_log_p: how much of the marker is the source's own.
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
    """The source's levels that both conditions pass, lowest and highest; None where there are none. `curves` is
    `dose_response` of one coupling per condition."""
    ranges = [
        (float(own.min()), float(own.max()))  # type: ignore[arg-type]
        for name in (treated, control)
        for own in [curves.filter(pl.col("condition") == name)["source_log_p"].drop_nulls()]
        if len(own)
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
    level: float = 0.95,
) -> DoseGap:
    """Treated minus control leakage where both sources are at `at` nats, linear between the steps read.

    A curve that passes the level several times is read where it first does, as matched acquisition stops there.
    Questions are resampled jointly; what both conditions have readings of counts. Give one coupling per condition:
    filter by lambda and seed first.

    Raises:
        ValueError: several couplings of a condition, or a reading that is missing at a step.
    """
    cells = shared_cells(telemetry, (treated, control), source, bystanders)
    tables = {name: _tables(telemetry, name, source, cells) for name in (treated, control)}
    n = cells["question_id"].n_unique()
    if n == 0:
        return DoseGap(
            treated,
            control,
            at,
            None,
            None,
            None,
            None,
            None,
            0,
            0,
            "no question that the source and a bystander answered in both",
        )
    once = np.ones((1, n))
    values = {name: float(_leakage_at(*table, once, at)[0]) for name, table in tables.items()}
    known = {name: None if np.isnan(value) else value for name, value in values.items()}
    short = [name for name, value in known.items() if value is None]
    if short:
        note = f"the source of {' and of '.join(short)} does not pass {at:g} nats"
        return DoseGap(treated, control, at, known[treated], known[control], None, None, None, n, 0, note)
    gap = values[treated] - values[control]
    if n < 2:
        return DoseGap(
            treated,
            control,
            at,
            known[treated],
            known[control],
            gap,
            None,
            None,
            n,
            0,
            "one question: no interval",
        )
    generator = np.random.default_rng(seed)
    draws: Array = np.concatenate(
        [
            _leakage_at(*tables[treated], weights, at) - _leakage_at(*tables[control], weights, at)
            for weights in multinomial_weights(n, resamples, generator)
        ]
    )
    summary = percentile_summary(draws, gap, level)
    lost = summary.undefined
    return DoseGap(
        treated, control, at, known[treated], known[control], gap, summary.low, summary.high, n, lost,
        f"{lost} of {resamples} resamples do not pass {at:g} nats" if lost else None,
    )  # fmt: skip


def shared_cells(
    telemetry: pl.DataFrame, conditions: Sequence[str], source: str, bystanders: Sequence[str]
) -> pl.DataFrame:
    """(persona, question_id) of every reading that all conditions have, of questions with source and a bystander."""
    asked = telemetry.filter(
        pl.col("condition").is_in(list(conditions)) & pl.col("persona").is_in([source, *bystanders])
    )
    cells = (
        asked.select("condition", "persona", "question_id")
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
    """log P of the source, and mean log P of the bystanders of these cells, each shape (steps, questions)."""
    own = telemetry.filter(pl.col("condition") == condition).join(
        cells, on=["persona", "question_id"], how="semi"
    )
    n_steps, n_questions = own["step"].n_unique(), cells["question_id"].n_unique()

    def table(chosen: pl.DataFrame, n_cells: int) -> Array:
        if chosen.height != n_steps * n_cells:
            raise ValueError(
                f"telemetry of {condition}: {chosen.height} readings of {n_steps} steps x {n_cells} cells: give one "
                "coupling, whole"
            )
        means = chosen.group_by("step", "question_id").agg(pl.col("log_p").mean()).sort("step", "question_id")
        return means["log_p"].to_numpy().astype(np.float64).reshape(n_steps, n_questions)

    is_source = pl.col("persona") == source
    return (
        table(own.filter(is_source), cells.filter(is_source).height),
        table(own.filter(is_source.not_()), cells.filter(is_source.not_()).height),
    )


def _leakage_at(source: Array, leakage: Array, weights: Array, at: float) -> Array:
    """Leakage where the source first reaches `at`, for each row of question weights: shape (resamples,), NaN where it
    never does, or starts above.

    Args:
        source, leakage: (steps, questions).
        weights: (resamples, questions).
    """
    totals = weights.sum(axis=1, keepdims=True)
    x, y = weights @ source.T / totals, weights @ leakage.T / totals  # (resamples, steps)
    reached = x >= at
    place = reached.argmax(axis=1)
    rows = np.arange(len(x))
    inside = reached.any(axis=1) & ((place > 0) | (x[rows, 0] == at))
    before = np.maximum(place - 1, 0)
    span = x[rows, place] - x[rows, before]
    share = np.divide(at - x[rows, before], span, out=np.ones_like(span), where=span > 0)
    values = y[rows, before] + share * (y[rows, place] - y[rows, before])
    return np.where(inside, values, np.nan)
