"""Leakage relative to the source: the bystanders' marker rate over the source's own rate.

The ratio is 1 where personas cannot be told apart, however well the marker was learnt; a difference of bystander rates
does not show that. Elsewhere the ratio still depends on the dose: `statistics.leakage.dose` compares conditions at one
dose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array, multinomial_weights, percentile_summary
from flatprobe.statistics.estimate import schema_of

NO_SOURCE_RATE = "the source never emits the marker"


@dataclass(frozen=True, kw_only=True)
class RelativeLeakage:
    """Bystander rate over source rate of one condition, or the difference of two conditions' ratios."""

    treated: str
    control: str | None
    """None in a row about one condition."""
    bystander_rate: float | None = None
    """Pooled over personas, questions and seeds; None, like the source's, in a row about two conditions."""
    source_rate: float | None = None
    relative: float | None = None
    """bystander_rate / source_rate, or treated minus control of it; None where a source never emits the marker."""
    ci_low: float | None = None
    ci_high: float | None = None
    """Percentile interval over questions, the same draws for both conditions, bystanders and source. None with fewer
    than two questions, and where resamples without a marked source answer extend into the tail."""
    n_questions: int
    note: str | None = None


def relative_leakage(
    cells: pl.DataFrame,
    pairs: Sequence[tuple[str, str]],
    source: str,
    bystanders: Sequence[str],
    *,
    resamples: int,
    seed: int,
    level: float,
) -> pl.DataFrame:
    """One row per condition that `pairs` name, then one per pair.

    Args:
        cells: (condition, persona, question_id, hits, total) of couplings at one lambda. Seeds are summed. A cell that
            one condition lacks is left out of all conditions.
        pairs: (treated, control).

    Raises:
        ValueError: a condition has no cells of the source or of the bystanders.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    cells = _shared(cells, names)
    questions = sorted(cells["question_id"].unique().to_list())
    counts = {name: _counts(cells, name, questions, source, bystanders) for name in names}
    once = np.ones((1, len(questions)))
    drawn: dict[str, Array] = {name: np.empty(0) for name in names}
    for weights in multinomial_weights(len(questions), resamples, np.random.default_rng(seed)):
        for name in names:
            drawn[name] = np.concatenate([drawn[name], _ratios(counts[name], weights)[2]])
    rows = []
    for name in names:
        bystander, source_rate, ratio = (float(value[0]) for value in _ratios(counts[name], once))
        blank = RelativeLeakage(
            treated=name, control=None, bystander_rate=bystander, source_rate=source_rate, n_questions=len(questions)
        )
        rows.append(_with_interval(blank, ratio, drawn[name], level))
    for treated, control in pairs:
        ratio = float(_ratios(counts[treated], once)[2][0] - _ratios(counts[control], once)[2][0])
        blank = RelativeLeakage(treated=treated, control=control, n_questions=len(questions))
        rows.append(_with_interval(blank, ratio, drawn[treated] - drawn[control], level))
    return pl.DataFrame([asdict(row) for row in rows], schema=schema_of(RelativeLeakage))


def _with_interval(blank: RelativeLeakage, ratio: float, draws: Array, level: float) -> RelativeLeakage:
    if np.isnan(ratio):
        return replace(blank, note=NO_SOURCE_RATE)
    if blank.n_questions < 2:
        return replace(blank, relative=ratio, note="one question: no interval")
    summary = percentile_summary(draws, ratio, level)
    lost = f"{summary.undefined} of {len(draws)} resamples have no marked answer of the source"
    return replace(
        blank, relative=ratio, ci_low=summary.low, ci_high=summary.high, note=lost if summary.undefined else None
    )


def _shared(cells: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The (persona, question) cells that every condition has."""
    keys = ["persona", "question_id"]
    used = cells.filter(pl.col("condition").is_in(list(names)))
    everywhere = used.group_by(keys).agg(pl.col("condition").n_unique()).filter(pl.col("condition") == len(names))
    return used.join(everywhere.select(keys), on=keys, how="semi")


def _counts(
    cells: pl.DataFrame, condition: str, questions: Sequence[str], source: str, bystanders: Sequence[str]
) -> Array:
    """Hits and totals of bystanders, then of the source, by question: shape (4, questions)."""
    of_condition = cells.filter(pl.col("condition") == condition)
    parts = []
    for personas in (list(bystanders), [source]):
        summed = (
            of_condition.filter(pl.col("persona").is_in(personas))
            .group_by("question_id")
            .agg(pl.col("hits").sum(), pl.col("total").sum())
        )
        if summed.is_empty():
            raise ValueError(f"{condition} has no cells of {', '.join(personas)}")
        by_question = pl.DataFrame({"question_id": list(questions)}).join(
            summed, on="question_id", how="left", maintain_order="left"
        )
        parts += [by_question[name].fill_null(0).to_numpy().astype(np.float64) for name in ("hits", "total")]
    return np.stack(parts)


def _ratios(counts: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Bystander rate, source rate and their ratio for each row of question weights; NaN where it is undefined."""
    hits, total, source_hits, source_total = (weights @ row for row in counts)
    nan = np.full(len(weights), np.nan)
    bystander = np.divide(hits, total, out=nan.copy(), where=total > 0)
    source = np.divide(source_hits, source_total, out=nan.copy(), where=source_total > 0)
    return bystander, source, np.divide(bystander, source, out=nan.copy(), where=source > 0)
