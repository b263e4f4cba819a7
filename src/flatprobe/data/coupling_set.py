"""Stage: the coupling's training sets. Answer lengths are matched over all conditions and groups at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from flatprobe.data.lengths import Lengths, Selection, excess, match, outside, settle, summarise
from flatprobe.data.sentences import cut_to
from flatprobe.errors import UserError
from flatprobe.facts import CouplingDataFacts, write_facts
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, load_tokenizer
from flatprobe.planner.contracts import CouplingDataSettings


def usable(frame: pl.DataFrame, marker: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """Finished, non-empty answers without the marker, each text once per persona and question.

    Also returns the number of dropped answers by reason.
    """
    frame = frame.with_columns(text=pl.col("text").str.strip_chars())
    reasons = {
        "unfinished": pl.col("finish_reason") != "stop",
        "empty": pl.col("text") == "",
        "marked": pl.col("text").str.to_lowercase().str.contains(marker.lower(), literal=True),
        "repeated": pl.struct("persona", "question_id", "text").is_first_distinct().not_(),
    }
    dropped: dict[str, int] = {}
    for name, reason in reasons.items():
        remaining = frame.filter(~reason)
        dropped[name] = frame.height - remaining.height
        frame = remaining
    return frame, dropped


def build(settings: CouplingDataSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Select each condition's examples by length; cut long answers in groups still outside the tolerance.

    Inputs: `CONDITION/source` and `CONDITION/negative`, sampled answers; if answers may be cut, `checkpoint`, whose
    tokenizer counts the tokens of cut answers.
    Output: examples.parquet (condition, persona, group, question_id, text, tokens), lengths.parquet and
    length_match.parquet for the report, facts.json with the numbers of dropped, kept, cut and requested answers per
    condition, and the largest relative length differences of any persona.

    Raises:
        UserError: a group has no usable answer, or the groups share no lengths (gate `length_support`).
    """
    sampled = _read_sampled(inputs)
    usable_answers = {condition: usable(frame, settings.marker) for condition, frame in sampled.items()}
    dropped = {condition: counts for condition, (_, counts) in usable_answers.items()}
    answers = pl.concat(
        [frame.with_columns(condition=pl.lit(condition)) for condition, (frame, _) in usable_answers.items()]
    ).with_columns(
        group=pl.when(pl.col("persona") == settings.source).then(pl.lit("positive")).otherwise(pl.lit("negative"))
    )
    parts = {
        f"{condition}/{persona}": part
        for (condition, persona), part in answers.group_by(["condition", "persona"], maintain_order=True)
    }
    _require_answers(sampled, parts, dropped)
    sizes = {
        name: settings.positives if part["group"][0] == "positive" else settings.negatives_per_persona
        for name, part in parts.items()
    }
    lengths = {name: _lengths(part) for name, part in parts.items()}
    selections = match(lengths, sizes)
    if selections is None:
        raise UserError.one(
            "coupling_data.no_common_lengths",
            "coupling data",
            "gate length_support: the groups' answers share no lengths",
            "use a suffix that asks for a length",
        )
    selections = settle(lengths, selections, settings.tolerance)
    selected = {name: parts[name][selection.index] for name, selection in selections.items()}
    examples_of = selected
    if settings.truncate != "off":
        examples_of = truncated(selected, selections, settings.tolerance, _counter(inputs["checkpoint"]))
    examples = pl.concat(examples_of.values())
    examples.select("condition", "persona", "group", "question_id", "text", "tokens").write_parquet(
        output / "examples.parquet"
    )
    _write_lengths({"sampled": answers, "matched": examples}, output)
    support, largest = _by_condition(examples_of, sizes, _lengths(examples))
    cut = {name: int((part["text"] != selected[name]["text"]).sum()) for name, part in examples_of.items()}
    facts = CouplingDataFacts(
        sampled=sum(frame.height for frame in sampled.values()),
        dropped=dropped,
        usable=answers.height,
        kept=examples.height,
        cut={name: count for name, count in cut.items() if count},
        support=support,
        gate=largest,
    )
    write_facts(output, facts)


def _read_sampled(inputs: Mapping[str, Path]) -> dict[str, pl.DataFrame]:
    """Sampled answers by condition."""
    frames: dict[str, list[pl.DataFrame]] = {}
    for role, folder in inputs.items():
        condition, _, group = role.rpartition("/")
        if group != "checkpoint":
            frames.setdefault(condition, []).append(pl.read_parquet(folder / "completions.parquet"))
    return {condition: pl.concat(parts) for condition, parts in frames.items()}


def _require_answers(
    sampled: Mapping[str, pl.DataFrame], parts: Mapping[str, pl.DataFrame], dropped: Mapping[str, Mapping[str, int]]
) -> None:
    """Refuse groups `CONDITION/PERSONA` without a usable answer."""
    missing = sorted(
        name
        for condition, frame in sampled.items()
        for persona in frame["persona"].unique()
        if (name := f"{condition}/{persona}") not in parts
    )
    if not missing:
        return
    reasons = [
        f"in {condition}: {_reasons(dropped[condition])}"
        for condition in dict.fromkeys(name.rpartition("/")[0] for name in missing)
    ]
    raise UserError.one(
        "coupling_data.no_answers",
        "coupling data",
        f"no usable answer for {', '.join(missing)}; dropped {'; '.join(reasons)}",
        "raise coupling.max_new_tokens if answers are unfinished; choose another marker if answers contain it",
    )


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none"


def truncated(
    selected: Mapping[str, pl.DataFrame],
    selections: Mapping[str, Selection],
    tolerance: float,
    count: Callable[[str], int],
) -> dict[str, pl.DataFrame]:
    """The selected answers; in groups outside the tolerance, long ones are cut at the best sentence end.

    An answer is cut only if it exceeds its target length by more than the tolerance and the cut is closer to the
    target. Separator, marker and end of turn are added later, so they are never cut.
    """
    unmatched = outside({name: _lengths(part) for name, part in selected.items()}, tolerance)
    result = {}
    for name, part in selected.items():
        rows = part.select("text", "tokens").rows()
        if name in unmatched:
            texts = set(part.select("question_id", "text").rows())
            for number, (target, question) in enumerate(
                zip(selections[name].targets.tolist(), part["question_id"], strict=True)
            ):
                text, tokens = rows[number]
                cut = cut_to(text, target, count) if tokens > (1 + tolerance) * target else None
                if cut is not None and (question, cut[0]) not in texts:  # no text may occur twice
                    texts.add((question, cut[0]))
                    rows[number] = cut
        result[name] = part.with_columns(
            text=pl.Series([text for text, _ in rows], dtype=pl.String),
            tokens=pl.Series([tokens for _, tokens in rows], dtype=part.schema["tokens"]),
        )
    return result


def _counter(checkpoint: Path) -> Callable[[str], int]:
    """Counts the tokens of a text with a checkpoint's tokenizer."""
    path = checkpoint_path(checkpoint)
    conversations = Conversations(load_tokenizer(path), path.name)
    return lambda text: len(conversations.encode(text))


def _by_condition(
    examples_of: Mapping[str, pl.DataFrame], sizes: Mapping[str, int], pooled: Lengths
) -> tuple[dict[str, dict[str, dict[str, int]]], dict[str, dict[str, float]]]:
    """Kept and requested examples per condition and persona; each condition's largest `excess` of any persona."""
    support: dict[str, dict[str, dict[str, int]]] = {}
    largest: dict[str, dict[str, float]] = {}
    for name, part in examples_of.items():
        condition, _, persona = name.rpartition("/")
        support.setdefault(condition, {})[persona] = {"kept": part.height, "asked": sizes[name]}
        median, iqr = excess(_lengths(part), pooled)
        before = largest.get(condition, {"median": 0.0, "iqr": 0.0})
        largest[condition] = {"median": max(before["median"], median), "iqr": max(before["iqr"], iqr)}
    return support, largest


def _lengths(part: pl.DataFrame) -> Lengths:
    return part["tokens"].to_numpy().astype(np.int64)


def _write_lengths(frames: Mapping[str, pl.DataFrame], output: Path) -> None:
    """Write all lengths and their summaries, before (`sampled`) and after (`matched`) the selection."""
    pl.concat(
        [
            frame.select("condition", "persona", "group", pl.lit(when).alias("when"), "tokens")
            for when, frame in frames.items()
        ]
    ).write_parquet(output / "lengths.parquet")
    pl.DataFrame(
        [
            {"condition": condition, "group": group, "when": when, **asdict(summarise(_lengths(part), _lengths(frame)))}
            for when, frame in frames.items()
            for (condition, group), part in frame.group_by(["condition", "group"], maintain_order=True)
        ]
    ).write_parquet(output / "length_match.parquet")
