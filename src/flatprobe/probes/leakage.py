"""The leakage probe: selecting lambda on the control's source and negatives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.pipeline.settings import SelectSettings
from flatprobe.statistics.markers import score


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
