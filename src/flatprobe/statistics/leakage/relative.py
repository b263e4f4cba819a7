"""Leakage relative to the source: how much of the marker that the source has learnt do bystanders show?

Where personas cannot be told apart the ratio of the two rates is 1, however well the marker was learnt, which no
difference of bystander rates says. Elsewhere it still depends on the dose: conditions are compared at one dose by
`statistics.dose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from flatprobe.statistics.bootstrap import Array, multinomial_weights, percentile_summary

SOURCE_WITHOUT = "the source never shows the marker"


@dataclass(frozen=True)
class RelativeLeakage:
    """Bystander over source rate of one condition, or of two the difference of these ratios."""

    treated: str
    control: str | None
    """None in a row about one condition."""
    bystander_rate: float | None
    """Pooled over personas, questions and seeds; in a row about two conditions None, as is the source's."""
    source_rate: float | None
    relative: float | None
    """bystander_rate / source_rate, or treated minus control of it; None where a source never shows the marker."""
    ci_low: float | None
    ci_high: float | None
    """Percentile interval over questions, the same draws for both conditions, bystanders and source; None with fewer
    than two questions, or where resamples without a marked source answer extend into the tail."""
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
    level: float = 0.95,
) -> pl.DataFrame:
    """One row per condition that `pairs` name, then one per pair.

    Args:
        cells: (condition, persona, question_id, hits, total) of couplings at one lambda; seeds are summed, and cells
            that a condition lacks are left out of all.
        pairs: (treated, control).

    Raises:
        ValueError: a condition without cells of the source or of a bystander.
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
        by, own, ratio = (float(value[0]) for value in _ratios(counts[name], once))
        rows.append(_row(name, None, by, own, ratio, drawn[name], len(questions), level))
    for treated, control in pairs:
        ratio = float(_ratios(counts[treated], once)[2][0] - _ratios(counts[control], once)[2][0])
        both = drawn[treated] - drawn[control]
        rows.append(_row(treated, control, None, None, ratio, both, len(questions), level))
    schema = {
        "treated": pl.String, "control": pl.String, "bystander_rate": pl.Float64, "source_rate": pl.Float64,
        "relative": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64, "n_questions": pl.Int64, "note": pl.String,
    }  # fmt: skip
    return pl.DataFrame([asdict(row) for row in rows], schema=schema)


def _row(
    treated: str,
    control: str | None,
    by: float | None,
    own: float | None,
    ratio: float,
    draws: Array,
    n_questions: int,
    level: float,
) -> RelativeLeakage:
    if np.isnan(ratio):
        return RelativeLeakage(treated, control, by, own, None, None, None, n_questions, SOURCE_WITHOUT)
    if n_questions < 2:
        return RelativeLeakage(
            treated, control, by, own, ratio, None, None, n_questions, "one question: no interval"
        )
    summary = percentile_summary(draws, ratio, level)
    lost = f"{summary.undefined} of {len(draws)} resamples have no marked answer of the source"
    return RelativeLeakage(
        treated, control, by, own, ratio, summary.low, summary.high, n_questions, lost if summary.undefined else None
    )  # fmt: skip


def _shared(cells: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The (persona, question) cells that every condition has."""
    place = ["persona", "question_id"]
    own = cells.filter(pl.col("condition").is_in(list(names)))
    everywhere = (
        own.group_by(place).agg(pl.col("condition").n_unique()).filter(pl.col("condition") == len(names))
    )
    return own.join(everywhere.select(place), on=place, how="semi")


def _counts(
    cells: pl.DataFrame, condition: str, questions: Sequence[str], source: str, bystanders: Sequence[str]
) -> Array:
    """Hits and totals of bystanders, then of the source, by question: shape (4, questions)."""
    own = cells.filter(pl.col("condition") == condition)
    parts = []
    for personas in (list(bystanders), [source]):
        summed = (
            own.filter(pl.col("persona").is_in(personas))
            .group_by("question_id")
            .agg(pl.col("hits").sum(), pl.col("total").sum())
        )
        if summed.is_empty():
            raise ValueError(f"{condition} has no cells of {', '.join(personas)}")
        found = pl.DataFrame({"question_id": list(questions)}).join(
            summed, on="question_id", how="left", maintain_order="left"
        )
        parts += [found[name].fill_null(0).to_numpy().astype(np.float64) for name in ("hits", "total")]
    return np.stack(parts)


def _ratios(counts: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Bystander rate, source rate and their ratio for each row of question weights; NaN where it is undefined."""
    hits, total, source_hits, source_total = (weights @ row for row in counts)
    nan = np.full(len(weights), np.nan)
    by = np.divide(hits, total, out=nan.copy(), where=total > 0)
    own = np.divide(source_hits, source_total, out=nan.copy(), where=source_total > 0)
    return by, own, np.divide(by, own, out=nan.copy(), where=own > 0)
