"""The leakage probe: selecting lambda on the control's source and negatives."""

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
    """The registered selection. Inputs: `lambda-0`, `lambda-1`, … : calibration completions in the lambdas' order.

    Largest end-anchored source rate minus mean negative rate; of those within one standard error of the best, the
    smallest lambda. The error is over questions, source and negatives paired by question, and at least the one that
    counts as saturated as these have: see `smallest_error`.
    """
    candidates = []
    for index, lambda_ in enumerate(settings.lambdas):
        frame = score(pl.read_parquet(inputs[f"lambda-{index}"] / "completions.parquet"), settings.marker)
        candidates.append({"lambda": lambda_, **contrast(frame, settings.source)})
    selected = choose(candidates)
    (output / "selection.json").write_text(json.dumps({"selected": selected, "candidates": candidates}))
    write_facts(output, SelectionFacts(selected=selected))


def contrast(frame: pl.DataFrame, source: str) -> dict[str, float | None]:
    """End-anchored source rate, mean negative rate, their difference, its standard error over questions, and the error
    within which the tie rule prefers a smaller lambda: the former, and at least `smallest_error`.

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
    rows, others = frame.filter(is_source), frame.filter(~is_source)
    smallest = smallest_error(*((int(of["ends_with_marker"].sum()), of.height) for of in (rows, others)))
    return {
        "source_rate": _mean(by_question["source"]),
        "negative_rate": _mean(by_question["negative"]),
        "difference": _mean(difference),
        "standard_error": error,
        "tie_error": max(smallest, error or 0.0),
        "strict_source_rate": _mean(rows["marker_present"].cast(pl.Float64)),
        "source_samples": float(rows.height),
    }


def smallest_error(source: tuple[int, int], negatives: tuple[int, int]) -> float:
    """Standard error of a difference of two rates, given as (hits, completions), with one hit and one miss added to
    each (Agresti and Caffo 2000, The American Statistician 54:280).

    Where every source completion has the marker and no negative does, questions do not differ and the error over them
    is 0, though a few completions cannot show a rate to be 1: this one shrinks as 1/completions there. It takes
    completions as independent, so it is a floor for the error over questions and no substitute.
    """
    rates = [((hits + 1) / (total + 2), total + 2) for hits, total in (source, negatives)]
    return math.sqrt(sum(rate * (1 - rate) / size for rate, size in rates))


def _mean(values: pl.Series) -> float:
    mean = values.mean()
    assert isinstance(mean, float), "an empty column has no mean"
    return mean


def choose(candidates: Sequence[Mapping[str, Any]]) -> float:
    """The smallest lambda whose difference is within one standard error of the best one's; the inequality is inclusive.

    The best is the smallest lambda with the largest difference; its `tie_error` is the standard error.
    """
    best = max(candidates, key=lambda candidate: (candidate["difference"], -candidate["lambda"]))
    floor = best["difference"] - best["tie_error"]
    return float(min(candidate["lambda"] for candidate in candidates if candidate["difference"] >= floor))
