"""Stage: the coupling's training sets, matched in length over all conditions and groups at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatprobe.data.lengths import Lengths, excess, match, summarise
from flatprobe.errors import UserError
from flatprobe.pipeline.settings import CouplingDataSettings


def usable(frame: pl.DataFrame, marker: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """Finished, non-empty answers without the marker, each text once per persona and question; and what was dropped."""
    frame = frame.with_columns(text=pl.col("text").str.strip_chars())
    reasons = {
        "unfinished": pl.col("finish_reason") != "stop",
        "empty": pl.col("text") == "",
        "marked": pl.col("text").str.to_lowercase().str.contains(marker.lower(), literal=True),
        "repeated": pl.struct("persona", "question_id", "text").is_first_distinct().not_(),
    }
    dropped: dict[str, int] = {}
    for name, reason in reasons.items():
        kept = frame.filter(~reason)
        dropped[name] = frame.height - kept.height
        frame = kept
    return frame, dropped


def build(settings: CouplingDataSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Select each condition's examples. Inputs: `CONDITION/source` and `CONDITION/negative`, sampled answers.

    Output: examples.parquet (condition, persona, group, question_id, text, tokens), lengths.parquet and
    length_match.parquet for the report, facts.json with what was dropped, kept and asked for per condition, and the
    largest relative differences of any persona's lengths.

    Raises:
        UserError: a group with no usable answer, or groups that share no lengths (gate `length_support`).
    """
    sampled: dict[str, pl.DataFrame] = {}
    for role, folder in inputs.items():
        condition = role.rpartition("/")[0]
        frame = pl.read_parquet(folder / "completions.parquet")
        sampled[condition] = pl.concat([sampled[condition], frame]) if condition in sampled else frame
    kept_of = {name: usable(frame, settings.marker) for name, frame in sampled.items()}
    answers = pl.concat(
        [frame.with_columns(condition=pl.lit(name)) for name, (frame, _) in kept_of.items()]
    ).with_columns(
        group=pl.when(pl.col("persona") == settings.source)
        .then(pl.lit("positive"))
        .otherwise(pl.lit("negative"))
    )
    parts = {
        f"{condition}/{persona}": part
        for (condition, persona), part in answers.group_by(["condition", "persona"], maintain_order=True)
    }
    wanted = {f"{name}/{persona}" for name, frame in sampled.items() for persona in frame["persona"].unique()}
    if missing := sorted(wanted - set(parts)):
        raise UserError.one(
            "coupling data", f"no usable answer for {', '.join(missing)}", "raise coupling.max_new_tokens"
        )
    sizes = {
        name: settings.positives if part["group"][0] == "positive" else settings.negatives_per_persona
        for name, part in parts.items()
    }
    chosen = match({name: _lengths(part) for name, part in parts.items()}, sizes)
    if chosen is None:
        raise UserError.one(
            "coupling data", "gate length_support: the groups' answers share no lengths",
            "use a suffix that asks for a length",
        )  # fmt: skip
    kept = pl.concat([parts[name][index] for name, index in chosen.items()])
    kept.select("condition", "persona", "group", "question_id", "text", "tokens").write_parquet(
        output / "examples.parquet"
    )
    both = {"sampled": answers, "matched": kept}
    pl.concat(
        [
            frame.select("condition", "persona", "group", pl.lit(when).alias("when"), "tokens")
            for when, frame in both.items()
        ]
    ).write_parquet(output / "lengths.parquet")
    summary = pl.concat([_summaries(frame, when) for when, frame in both.items()])
    summary.write_parquet(output / "length_match.parquet")
    support, worst = _by_condition(parts, chosen, sizes, _lengths(kept))
    facts = {
        "sampled": sum(frame.height for frame in sampled.values()),
        "dropped": {name: dropped for name, (_, dropped) in kept_of.items()},
        "usable": answers.height,
        "kept": kept.height,
        "support": support,
        "gate": worst,
    }
    (output / "facts.json").write_text(json.dumps(facts))


def _by_condition(
    parts: Mapping[str, pl.DataFrame],
    chosen: Mapping[str, NDArray[np.int64]],
    sizes: Mapping[str, int],
    pooled: Lengths,
) -> tuple[dict[str, dict[str, dict[str, int]]], dict[str, dict[str, float]]]:
    """Examples kept and asked for per condition and persona, and each condition's largest `excess` of any persona."""
    support: dict[str, dict[str, dict[str, int]]] = {}
    worst: dict[str, dict[str, float]] = {}
    for name, index in chosen.items():
        condition, _, persona = name.rpartition("/")
        support.setdefault(condition, {})[persona] = {"kept": len(index), "asked": sizes[name]}
        median, iqr = excess(_lengths(parts[name][index]), pooled)
        largest = worst.setdefault(condition, {"median": 0.0, "iqr": 0.0})
        worst[condition] = {"median": max(largest["median"], median), "iqr": max(largest["iqr"], iqr)}
    return support, worst


def _lengths(part: pl.DataFrame) -> Lengths:
    return part["tokens"].to_numpy().astype(np.int64)


def _summaries(frame: pl.DataFrame, when: str) -> pl.DataFrame:
    pooled = _lengths(frame)
    return pl.DataFrame(
        [
            {
                "condition": condition,
                "group": group,
                "when": when,
                **asdict(summarise(_lengths(part), pooled)),
            }
            for (condition, group), part in frame.group_by(["condition", "group"], maintain_order=True)
        ]
    )
