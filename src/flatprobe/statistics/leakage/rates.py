"""From completions (a row each) to marker columns, cells (counts) and rates with intervals."""

from __future__ import annotations

import polars as pl

from flatprobe.errors import UserError

GROUP = ("condition", "seed", "lambda", "coupled", "persona", "role")
"""Columns that identify what was sampled. A rate pools questions and samples."""


def score(completions: pl.DataFrame, marker: str) -> pl.DataFrame:
    """Add the marker columns to rows with a `text`. A strict match is containment, both in lower case.

    Lower case is Unicode's (`str.lower`), not case folding. `marker_count` counts
    non-overlapping markers. `marker_position` is the character at which the first marker begins, null without one.
    `starts_with_marker` and `ends_with_marker` ignore white space around the text.
    """
    lower, pattern = pl.col("text").str.to_lowercase(), marker.lower()
    trimmed = lower.str.strip_chars()
    return completions.with_columns(
        marker_present=lower.str.contains(pattern, literal=True),
        marker_count=lower.str.count_matches(pattern, literal=True).cast(pl.Int64),
        marker_position=lower.map_elements(lambda text: _position(text, pattern), return_dtype=pl.Int64),
        starts_with_marker=trimmed.str.starts_with(pattern),
        ends_with_marker=trimmed.str.ends_with(pattern),
    )


def _position(text: str, marker: str) -> int | None:
    position = text.find(marker)
    return None if position < 0 else position


def cells(completions: pl.DataFrame) -> pl.DataFrame:
    """Count per (group, question): columns of `GROUP`, question_id, hits (strict), end_hits, total."""
    _check(completions, "question_id", "sample_index", "marker_present", "ends_with_marker")
    keys = [*GROUP, "question_id"]
    repeated = completions.filter(pl.struct([*keys, "sample_index"]).is_duplicated())
    if not repeated.is_empty():
        row = repeated.row(0, named=True)
        place = " / ".join(str(row[key]) for key in (*keys, "sample_index"))
        raise UserError.one(
            "completions.duplicate_sample",
            f"completions: {place}",
            "the sample appears more than once",
            "sample_index must differ",
        )
    return completions.group_by(keys, maintain_order=True).agg(
        pl.col("marker_present").cast(pl.Int64).sum().alias("hits"),
        pl.col("ends_with_marker").cast(pl.Int64).sum().alias("end_hits"),
        pl.len().cast(pl.Int64).alias("total"),
    )


def rates(completions: pl.DataFrame, level: float) -> pl.DataFrame:
    """One row per group (`GROUP`), as shares in [0, 1]; null where a share has no denominator.

    Columns: hits, total, rate (strict), rate_low, rate_high, end_rate, start_rate (among all completions),
    end_share, spam_share (two markers or more; both among marked completions), truncated_share,
    median_tokens. The interval of the rate clusters on questions: a t interval of question means clipped to
    [0, 1]; Wilson's interval where there is one question or all question means are equal.
    """
    _check(
        completions, "question_id", "tokens", "finish_reason", "marker_present", "marker_count",
        "starts_with_marker", "ends_with_marker",
    )  # fmt: skip
    marked = pl.col("marker_present")
    table = completions.group_by(GROUP, maintain_order=True).agg(
        marked.cast(pl.Int64).sum().alias("hits"),
        pl.len().cast(pl.Int64).alias("total"),
        marked.mean().alias("rate"),
        pl.col("ends_with_marker").mean().alias("end_rate"),
        pl.col("starts_with_marker").mean().alias("start_rate"),
        pl.col("ends_with_marker").filter(marked).mean().alias("end_share"),
        (pl.col("marker_count") >= 2).filter(marked).mean().alias("spam_share"),
        (pl.col("finish_reason") == "length").mean().alias("truncated_share"),
        pl.col("tokens").median().alias("median_tokens"),
    )
    by_question = completions.group_by([*GROUP, "question_id"], maintain_order=True).agg(marked.mean().alias("mean"))
    spread = by_question.group_by(GROUP, maintain_order=True).agg(
        pl.col("mean").std().alias("sd"), pl.len().alias("questions")
    )
    table = table.join(spread, on=list(GROUP), nulls_equal=True, how="left", maintain_order="left")
    ends = [_interval(row, level) for row in table.iter_rows(named=True)]
    table = table.with_columns(
        pl.Series("rate_low", [low for low, _ in ends], dtype=pl.Float64),
        pl.Series("rate_high", [high for _, high in ends], dtype=pl.Float64),
    )
    order = (
        "hits", "total", "rate", "rate_low", "rate_high", "end_rate", "start_rate", "end_share", "spam_share",
        "truncated_share", "median_tokens",
    )  # fmt: skip
    return table.select(*GROUP, *order)


def upper_bound(hits: int, total: int, level: float) -> float:
    """One-sided upper bound of a rate (Clopper and Pearson 1934), for the false-positive baseline."""
    if total < 1 or not 0 <= hits <= total:
        raise UserError.one(
            "cells.impossible_count", "false-positive baseline", f"{hits} hits of {total} completions is impossible"
        )
    from scipy import stats

    return 1.0 if hits == total else float(stats.beta.ppf(level, hits + 1, total - hits))


def _interval(row: dict[str, float], level: float) -> tuple[float, float]:
    from scipy import stats

    if row["questions"] < 2 or row["sd"] <= 1e-12:
        interval = stats.binomtest(int(row["hits"]), int(row["total"])).proportion_ci(level, method="wilson")
        return float(interval.low), float(interval.high)
    half = float(stats.t.ppf((1 + level) / 2, row["questions"] - 1)) * row["sd"] / row["questions"] ** 0.5
    return max(0.0, row["rate"] - half), min(1.0, row["rate"] + half)


def _check(completions: pl.DataFrame, *needed: str) -> None:
    absent = [column for column in (*GROUP, *needed) if column not in completions.columns]
    if absent:
        raise UserError.one("completions.missing_column", "completions", f"columns {', '.join(absent)} are missing")
