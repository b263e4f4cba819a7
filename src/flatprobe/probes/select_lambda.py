"""Stage: the selection of lambda, on completions of the control's source and negatives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.facts import SelectionFacts, write_facts
from flatprobe.planner.contracts import SelectSettings
from flatprobe.statistics.leakage.rates import score


def select_lambda(settings: SelectSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Select lambda by the registered rule. Inputs: `lambda-0`, `lambda-1`, …: the calibration completions of each.

    A lambda's contrast is the source's end-anchored rate minus the mean negative rate. Of the lambdas within one
    standard error of the largest contrast, the smallest is selected. The standard error is over questions, with source
    and negatives paired by question, and at least `smallest_error`. Output: selection.json, facts.json.
    """
    candidates = []
    for index, lambda_ in enumerate(settings.lambdas):
        frame = score(pl.read_parquet(inputs[f"lambda-{index}"] / "completions.parquet"), settings.marker)
        candidates.append({"lambda": lambda_, **contrast(frame, settings.source)})
    selected = choose(candidates)
    (output / "selection.json").write_text(json.dumps({"selected": selected, "candidates": candidates}))
    write_facts(output, SelectionFacts(selected=selected))


def contrast(frame: pl.DataFrame, source: str) -> dict[str, float | None]:
    """Rates of one lambda, their difference (source minus negatives), and its errors.

    `standard_error` is over questions; None with one question. `tie_error` is the larger of it and `smallest_error`.
    """
    is_source = pl.col("persona") == source
    by_question = frame.group_by("question_id").agg(
        source=pl.col("ends_with_marker").filter(is_source).mean(),
        negative=pl.col("ends_with_marker").filter(~is_source).mean(),
    )
    difference = by_question["source"] - by_question["negative"]
    deviation = difference.std()
    error = deviation / math.sqrt(len(difference)) if isinstance(deviation, float) else None
    source_rows, negative_rows = frame.filter(is_source), frame.filter(~is_source)
    smallest = smallest_error(
        *((int(rows["ends_with_marker"].sum()), rows.height) for rows in (source_rows, negative_rows))
    )
    return {
        "source_rate": _mean(by_question["source"]),
        "negative_rate": _mean(by_question["negative"]),
        "difference": _mean(difference),
        "standard_error": error,
        "tie_error": max(smallest, error or 0.0),
        "strict_source_rate": _mean(source_rows["marker_present"].cast(pl.Float64)),
        "source_samples": float(source_rows.height),
    }


def smallest_error(source: tuple[int, int], negatives: tuple[int, int]) -> float:
    """Standard error of the difference of two rates, each given as (hits, completions).

    One hit and one miss are added to each (Agresti and Caffo 2000, The American Statistician 54:280). It is a lower
    limit for the error over questions. That error is 0 if every source completion has the marker and no negative does,
    although a few completions do not prove a rate of 1; this one then falls as 1/completions. It does not replace the
    error over questions, because it treats completions as independent.
    """
    rates = [((hits + 1) / (total + 2), total + 2) for hits, total in (source, negatives)]
    return math.sqrt(sum(rate * (1 - rate) / size for rate, size in rates))


def _mean(values: pl.Series) -> float:
    mean = values.mean()
    assert isinstance(mean, float), "an empty column has no mean"
    return mean


def choose(candidates: Sequence[Mapping[str, Any]]) -> float:
    """The smallest lambda whose difference is at least the best lambda's difference minus its `tie_error`.

    The best lambda is the smallest one with the largest difference.
    """
    best = max(candidates, key=lambda candidate: (candidate["difference"], -candidate["lambda"]))
    floor = best["difference"] - best["tie_error"]
    return float(min(candidate["lambda"] for candidate in candidates if candidate["difference"] >= floor))
