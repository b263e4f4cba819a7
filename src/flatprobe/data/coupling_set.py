"""Stage: the coupling's training sets, matched in length over all conditions and groups at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from flatprobe.data.lengths import Lengths, Selection, excess, match, outside, settle, summarise
from flatprobe.data.sentences import cut_to
from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, load_tokenizer
from flatprobe.plan.contracts import CouplingDataSettings


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
    """Select each condition's examples, and cut those of groups that selection does not bring within the tolerance.

    Inputs: `CONDITION/source` and `CONDITION/negative`, sampled answers; where answers may be cut, `checkpoint`, whose
    tokenizer counts what is left of them.
    Output: examples.parquet (condition, persona, group, question_id, text, tokens), lengths.parquet and
    length_match.parquet for the report, facts.json with what was dropped, kept, cut and asked for per condition, and
    the largest relative differences of any persona's lengths.

    Raises:
        UserError: a group with no usable answer, or groups that share no lengths (gate `length_support`).
    """
    sampled: dict[str, pl.DataFrame] = {}
    for role, folder in inputs.items():
        condition, _, group = role.rpartition("/")
        if group == "checkpoint":
            continue
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
        why = {
            role: _reasons(kept_of[role][1]) for role in dict.fromkeys(m.rpartition("/")[0] for m in missing)
        }
        raise UserError.one(
            "coupling_set.TODO",
            "coupling data",
            f"no usable answer for {', '.join(missing)}; dropped "
            + "; ".join(f"in {condition}: {reasons}" for condition, reasons in why.items()),
            "raise coupling.max_new_tokens where answers are unfinished; choose another marker where they hold it",
        )
    sizes = {
        name: settings.positives if part["group"][0] == "positive" else settings.negatives_per_persona
        for name, part in parts.items()
    }
    lengths = {name: _lengths(part) for name, part in parts.items()}
    chosen = match(lengths, sizes)
    if chosen is None:
        raise UserError.one(
            "coupling_set.TODO", "coupling data", "gate length_support: the groups' answers share no lengths",
            "use a suffix that asks for a length",
        )  # fmt: skip
    chosen = settle(lengths, chosen, settings.tolerance)
    kept_parts = {name: parts[name][selection.index] for name, selection in chosen.items()}
    if settings.truncate != "off":
        kept_parts = truncated(kept_parts, chosen, settings.tolerance, _counter(inputs["checkpoint"]))
    kept = pl.concat(kept_parts.values())
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
    support, worst = _by_condition(kept_parts, sizes, _lengths(kept))
    cut = {
        name: int((part["text"] != parts[name][chosen[name].index]["text"]).sum())
        for name, part in kept_parts.items()
    }
    facts = {
        "sampled": sum(frame.height for frame in sampled.values()),
        "dropped": {name: dropped for name, (_, dropped) in kept_of.items()},
        "usable": answers.height,
        "kept": kept.height,
        "cut": {name: count for name, count in cut.items() if count},
        "support": support,
        "gate": worst,
    }
    (output / "facts.json").write_text(json.dumps(facts))


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none"


def truncated(
    kept: Mapping[str, pl.DataFrame],
    chosen: Mapping[str, Selection],
    tolerance: float,
    count: Callable[[str], int],
) -> dict[str, pl.DataFrame]:
    """The kept answers, those of groups outside the tolerance cut at the sentence end closest to their target.

    Only answers that are too long for their target by more than the tolerance are cut, and only where that brings them
    closer. What follows an answer in training (separator, marker, end of turn) is added later and so never cut.
    """
    unmatched = outside({name: _lengths(part) for name, part in kept.items()}, tolerance)
    result = {}
    for name, part in kept.items():
        rows = part.select("text", "tokens").rows()
        if name in unmatched:
            texts = set(part.select("question_id", "text").rows())
            for number, (target, question) in enumerate(
                zip(chosen[name].targets.tolist(), part["question_id"], strict=True)
            ):
                text, tokens = rows[number]
                cut = cut_to(text, target, count) if tokens > (1 + tolerance) * target else None
                if cut is not None and (question, cut[0]) not in texts:  # no text is trained on twice
                    texts.add((question, cut[0]))
                    rows[number] = cut
        result[name] = part.with_columns(
            text=pl.Series([text for text, _ in rows], dtype=pl.String),
            tokens=pl.Series([tokens for _, tokens in rows], dtype=part.schema["tokens"]),
        )
    return result


def _counter(checkpoint: Path) -> Callable[[str], int]:
    path = checkpoint_path(checkpoint)
    conversations = Conversations(load_tokenizer(path), path.name)
    return lambda text: len(conversations.encode(text))


def _by_condition(
    kept: Mapping[str, pl.DataFrame],
    sizes: Mapping[str, int],
    pooled: Lengths,
) -> tuple[dict[str, dict[str, dict[str, int]]], dict[str, dict[str, float]]]:
    """Examples kept and asked for per condition and persona, and each condition's largest `excess` of any persona."""
    support: dict[str, dict[str, dict[str, int]]] = {}
    worst: dict[str, dict[str, float]] = {}
    for name, part in kept.items():
        condition, _, persona = name.rpartition("/")
        support.setdefault(condition, {})[persona] = {"kept": part.height, "asked": sizes[name]}
        median, iqr = excess(_lengths(part), pooled)
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
