"""The leakage probe: scoring completions, and selecting lambda on the control's source and negatives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.pipeline.settings import SelectSettings


def score(completions: pl.DataFrame, marker: str) -> pl.DataFrame:
    """Add the marker columns to rows with a `text`: strict match is case-insensitive containment.

    `marker_position` is the character at which the first marker begins, null without one; starting and ending
    ignore white space around the text.
    """
    lower, wanted = pl.col("text").str.to_lowercase(), marker.lower()
    trimmed = lower.str.strip_chars()
    return completions.with_columns(
        marker_present=lower.str.contains(wanted, literal=True),
        marker_count=lower.str.count_matches(wanted, literal=True).cast(pl.Int64),
        marker_position=lower.map_elements(lambda text: _position(text, wanted), return_dtype=pl.Int64),
        starts_with_marker=trimmed.str.starts_with(wanted),
        ends_with_marker=trimmed.str.ends_with(wanted),
    )


def _position(text: str, marker: str) -> int | None:
    place = text.find(marker)
    return None if place < 0 else place


def select_lambda(settings: SelectSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """The registered selection. Inputs: `lambda-0`, `lambda-1`, … : calibration completions in the lambdas' order.

    Largest end-anchored source rate minus mean negative rate; of those within one standard error of the best, the
    smallest lambda. The error is over questions, source and negatives paired by question.
    """
    candidates = []
    for index, lambda_ in enumerate(settings.lambdas):
        frame = score(pl.read_parquet(inputs[f"lambda-{index}"] / "completions.parquet"), settings.marker)
        candidates.append({"lambda": lambda_, **contrast(frame, settings.source)})
    selected = choose(candidates)
    (output / "selection.json").write_text(json.dumps({"selected": selected, "candidates": candidates}))
    (output / "facts.json").write_text(json.dumps({"selected": selected}))


def contrast(frame: pl.DataFrame, source: str) -> dict[str, float | None]:
    """End-anchored source rate, mean negative rate, their difference and its standard error over questions.

    One question has no standard error: null.
    """
    is_source = pl.col("persona") == source
    by_question = frame.group_by("question_id").agg(
        source=pl.col("ends_with_marker").filter(is_source).mean(),
        negative=pl.col("ends_with_marker").filter(~is_source).mean(),
    )
    difference = by_question["source"] - by_question["negative"]
    spread = difference.std()
    error = spread / math.sqrt(len(difference)) if isinstance(spread, float) else None
    rows = frame.filter(is_source)
    return {
        "source_rate": _mean(by_question["source"]),
        "negative_rate": _mean(by_question["negative"]),
        "difference": _mean(difference),
        "standard_error": error,
        "strict_source_rate": _mean(rows["marker_present"].cast(pl.Float64)),
        "source_samples": float(rows.height),
    }


def _mean(values: pl.Series) -> float:
    mean = values.mean()
    assert isinstance(mean, float), "an empty column has no mean"
    return mean


def choose(candidates: Sequence[Mapping[str, Any]]) -> float:
    """The smallest lambda whose difference is within one standard error of the best one's (equal to it, where the
    error is unknown); the inequality is inclusive."""
    best = max(candidates, key=lambda candidate: candidate["difference"])
    tolerance = best["standard_error"] if best["standard_error"] is not None else 0.0
    floor = best["difference"] - tolerance
    return float(min(candidate["lambda"] for candidate in candidates if candidate["difference"] >= floor))
