"""Stage: all observations of a study as tidy tables, and the facts that gates read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.errors import UserError
from flatprobe.facts import FILE, CoupleFacts, read_facts
from flatprobe.planner.contracts import Entry, EntryKind, GatherSettings
from flatprobe.statistics.leakage.rates import cells, rates, score
from flatprobe.table_schemas import write_table

Reader = Callable[[Path], pl.DataFrame]


def gather(settings: GatherSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Write tables/*.parquet and facts-by-stage.json.

    Inputs: every stage of `settings.entries`. Empty tables are not written. A study without a coupling has no
    completions, selection of lambda or audits.

    Raises:
        UserError: conditions have different rendered prompts.
    """
    lambdas = {
        entry.role: read_facts(inputs[entry.role], CoupleFacts).lambda_
        for entry in settings.entries
        if entry.kind == "couple"
    }
    read = _Reader(settings.entries, inputs, lambdas)
    responses = read.all("own", "completions").filter(sample_index=0).drop("sample_index", "seed", "lambda")
    if read.has("leakage"):
        completions = pl.concat(
            [read.all("leakage", "completions", coupled=True), read.all("baseline", "completions", coupled=False)],
            how="diagonal_relaxed",
        )
        completions = score(completions, settings.marker)
        require_same_prompts([completions, responses])
        sampled = {"completions": completions, "cells": cells(completions), "rates": rates(completions, settings.level)}
    else:
        require_same_prompts([responses])
        sampled = {}
    tables = {
        **sampled,
        "responses": responses,
        "losses": pl.concat(
            [read.all("finetune", "losses", stage="finetune"), read.all("couple", "losses", stage="couple")],
            how="diagonal_relaxed",
        ),
        "telemetry": read.all("couple", "telemetry"),
        "lengths": read.all("coupling_data", "lengths"),
        "length_match": read.all("coupling_data", "length_match"),
        "binding": read.all("binding", "binding"),
        "binding_effects": read.all("binding", "binding_effects"),
        "contexts": read.all("audit", "contexts"),
        "shares": read.all("audit", "shares"),
        "invariants": read.all("audit", "invariants"),
        "weights": read.all("weights", "weights"),
        "manipulation": read.all("manipulation", "manipulation"),
        "fluency": read.all("manipulation", "fluency"),
        "questions": pl.DataFrame(
            [{"set": name, **q.model_dump()} for name, questions in settings.questions.items() for q in questions]
        ),
        "panel": pl.DataFrame(
            [{"persona": p.name, "role": p.role, "prompt": p.system} for p in settings.personas],
            schema={"persona": pl.String, "role": pl.String, "prompt": pl.String},
        ),
    }
    if tables["weights"].height:
        tables["weights"] = tables["weights"].with_columns(
            stage=pl.when(pl.col("lambda").is_null()).then(pl.lit("finetune")).otherwise(pl.lit("couple"))
        )
    folder = output / "tables"
    folder.mkdir()
    for name, table in tables.items():
        if table.height:
            write_table(table, name, folder)
    facts = [
        {**entry.model_dump(), "facts": json.loads((inputs[entry.role] / FILE).read_text())}
        for entry in settings.entries
        if (inputs[entry.role] / FILE).is_file()
    ]
    (output / "facts-by-stage.json").write_text(json.dumps(facts))
    for kind, file in (("selection", "selection.json"), ("states", "preview.json")):
        if (first := next((entry for entry in settings.entries if entry.kind == kind), None)) is not None:
            (output / file).write_text((inputs[first.role] / file).read_text())
    if not read.has("selection"):
        return
    audits = [
        shown
        for entry in _audits_that_decide(settings.entries, inputs, _selected(output))
        for shown in json.loads((inputs[entry.role] / "audit.json").read_text())
    ]
    (output / "audit.json").write_text(json.dumps(audits))


def require_same_prompts(frames: Sequence[pl.DataFrame]) -> None:
    """Assert that all conditions got the same rendered prompts, by their hashes.

    Raises:
        UserError: a checkpoint has another chat template, or a template that prints the date.
    """
    keys = ("persona", "question_id")
    prompts = pl.concat([frame.select("condition", *keys, "prompt_hash") for frame in frames]).unique(
        maintain_order=True
    )
    differing = prompts.filter(pl.col("prompt_hash").n_unique().over(keys) > 1)
    if differing.is_empty():
        return
    first = differing.row(0, named=True)
    cell = differing.filter(pl.col(key) == first[key] for key in keys)
    conditions = ", ".join(cell["condition"].unique(maintain_order=True))
    raise UserError.one(
        "template.different_prompts",
 f"prompts of {conditions}", f"{first['persona']} had different prompts for {first['question_id']}",
        "give all checkpoints one chat template that does not print the date",
    )  # fmt: skip


class _Reader:
    """Reads one table of all inputs of a kind, with columns condition, seed and lambda."""

    def __init__(self, entries: Sequence[Entry], inputs: Mapping[str, Path], lambdas: Mapping[str, float]) -> None:
        self.entries, self.inputs, self.lambdas = entries, inputs, lambdas

    def has(self, kind: EntryKind) -> bool:
        return any(entry.kind == kind for entry in self.entries)

    def all(self, kind: EntryKind, table: str, **labels: bool | str) -> pl.DataFrame:
        """Rows of all inputs of a kind, with the labels as further columns; an empty frame without inputs."""
        frames = []
        seen: set[tuple[str, str | None]] = set()
        for entry in self.entries:
            if entry.kind != kind or (entry.role, entry.condition) in seen:
                continue
            seen.add((entry.role, entry.condition))
            frame = pl.read_parquet(self.inputs[entry.role] / f"{table}.parquet")
            columns: dict[str, Any] = {
                "seed": pl.lit(entry.seed, dtype=pl.Int64),
                "lambda": pl.lit(self.lambdas.get(entry.couple or entry.role), dtype=pl.Float64),
            }
            if "condition" not in frame.columns:
                columns["condition"] = pl.lit(entry.condition)
            columns |= {name: pl.lit(value) for name, value in labels.items()}
            frames.append(frame.with_columns(**columns))
        return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def _first_of_each_condition(entries: Sequence[Entry], kind: EntryKind) -> list[Entry]:
    first: dict[str | None, Entry] = {}
    for entry in entries:
        if entry.kind == kind:
            first.setdefault(entry.condition, entry)
    return list(first.values())


def _selected(output: Path) -> float:
    return float(json.loads((output / "selection.json").read_text())["selected"])


def _audits_that_decide(entries: Sequence[Entry], inputs: Mapping[str, Path], selected: float) -> list[Entry]:
    """Per condition, the audit of its first coupling with the selected lambda."""
    audits = [entry for entry in entries if entry.kind == "audit" and entry.couple is not None]
    return _first_of_each_condition(
        [entry for entry in audits if read_facts(inputs[entry.couple or ""], CoupleFacts).lambda_ == selected], "audit"
    )
