"""Stage: the hidden states of one checkpoint, all personas, questions, layers and positions in one pass."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from flatprobe.activations.positions import ProbedRow, probed_row
from flatprobe.activations.read import read_states
from flatprobe.facts import StatesFacts, write_facts
from flatprobe.generation.sample import prompts_of
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import held_checkpoint, pick_device
from flatprobe.pipeline.progress import report_progress
from flatprobe.planner.contracts import StatesSettings
from flatprobe.probes.headroom import headroom, over_layers
from flatprobe.statistics.geometry.states import StateKind

PREVIEWED = 4  # rows per position in the token preview


def capture(settings: StatesSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Record states on own and on fixed responses.

    Inputs: `checkpoint`, `own` (this checkpoint's answers), `fixed` (the control's). Output: states.safetensors with
    `own.POSITION` and `fixed.POSITION`, [P, Q, L, D] float32; index.json (axes, cells whose own answer is unfinished,
    questions whose fixed answer is); preview.json (decoded tokens with the probed index); facts.json (counts, and the
    headroom per position and layer).

    Where there are several sampled answers to a question, a cell's state is the mean over them, for both kinds of
    responses; positions in the prompt are the same under each. A cell is unfinished if any of its answers hit the token
    limit or is empty. The first gets an end of turn that the model has not said, at which `turn_end_token` is read; in
    the second the end of turn stands in for the content token that is not there.

    Raises:
        UserError: an unsuitable model, a layer it has not, a row beyond its context, or a state that is not finite.
    """
    local = current_machine()
    loaded = held_checkpoint(inputs["checkpoint"], settings.precision, pick_device(local.device))
    frames = {role: pl.read_parquet(inputs[role] / "completions.parquet") for role in ("own", "fixed")}
    frames["fixed"] = frames["fixed"].filter(pl.col("persona") == settings.fixed_persona)
    prompts = prompts_of(settings.personas, settings.questions)
    own = _own(loaded.conversations, prompts, frames["own"])
    fixed = _fixed(loaded.conversations, prompts, frames["fixed"])
    rows = [*own.rows, *fixed.rows]
    reading = read_states(
        loaded, rows, settings.layers, settings.positions, batch=local.forward_rows,
        cells=[*own.cells, *(len(prompts) + cell for cell in fixed.cells)],
        report=lambda done: report_progress(done, len(rows), "states"),
    )  # fmt: skip
    shape = (2, len(settings.personas), len(settings.questions))
    arrays: dict[StateKind, np.ndarray[Any, Any]] = {}
    for position, values in reading.states.items():
        both = values.reshape(*shape, *values.shape[1:])
        arrays[StateKind("own", position)], arrays[StateKind("fixed", position)] = both
    save_file({str(kind): values for kind, values in arrays.items()}, output / "states.safetensors")
    index = axes(settings) | {
        "unfinished": [cell for p in prompts if (cell := (p.persona, p.question_id)) in own.unfinished],
        "unfinished_fixed": sorted({question for _, question in fixed.unfinished}),
    }
    (output / "index.json").write_text(json.dumps(index))
    (output / "preview.json").write_text(json.dumps(_previews(settings, loaded.conversations, own)))
    room = {kind: headroom(settings, values) for kind, values in arrays.items()}
    facts = StatesFacts(
        cells=len(prompts),
        questions=len(settings.questions),
        answers=len(own.rows),
        unfinished=len(index["unfinished"]),
        empty=sum(row.empty for row in own.rows),
        unfinished_fixed=len(index["unfinished_fixed"]),
        tokens=reading.tokens,
        computed_tokens=reading.computed,
        headroom={position: room[StateKind("own", position)] for position in settings.positions},
        headroom_fixed={position: room[StateKind("fixed", position)] for position in settings.positions},
        headroom_mean={str(kind): over_layers(values) for kind, values in room.items()},
    )
    write_facts(output, facts)


def axes(settings: StatesSettings) -> dict[str, Any]:
    """Names along the axes of the stored arrays."""
    return {
        "personas": [persona.name for persona in settings.personas],
        "questions": [question.id for question in settings.questions],
        "layers": list(settings.layers),
        "positions": list(settings.positions),
    }


@dataclass(frozen=True)
class _Answered:
    """Rows of one kind of responses; several rows of a cell are several samples."""

    rows: list[ProbedRow]
    cells: list[int]
    """Each row's cell: its prompt's number."""
    unfinished: set[tuple[str, str]]
    """Persona and question of answers that were cut or are empty."""


def _own(conversations: Conversations, prompts: Sequence[Prompt], answers: pl.DataFrame) -> _Answered:
    """Every persona with its own answers."""
    texts = _texts(answers, "persona", "question_id")
    return _answered(
        conversations, prompts, [texts[p.persona, p.question_id] for p in prompts], _cut(answers)
    )


def _fixed(conversations: Conversations, prompts: Sequence[Prompt], answers: pl.DataFrame) -> _Answered:
    """Every persona with the same answers."""
    texts = _texts(answers, "question_id")
    return _answered(conversations, prompts, [texts[(p.question_id,)] for p in prompts], _cut(answers))


def _answered(
    conversations: Conversations,
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[str]],
    cut: set[tuple[str, str]],
) -> _Answered:
    pairs = [
        (cell, probed_row(conversations, prompt, text))
        for cell, (prompt, samples) in enumerate(zip(prompts, texts, strict=True))
        for text in samples
    ]
    empty = {(row.persona, row.question_id) for _, row in pairs if row.empty}
    return _Answered([row for _, row in pairs], [cell for cell, _ in pairs], cut | empty)


def _texts(answers: pl.DataFrame, *by: str) -> dict[tuple[Any, ...], list[str]]:
    """The sampled answers of each cell, in the order of their sample index."""
    ordered = answers.sort("sample_index").group_by(*by, maintain_order=True).agg("text")
    return {tuple(row[name] for name in by): row["text"] for row in ordered.iter_rows(named=True)}


def _cut(answers: pl.DataFrame) -> set[tuple[str, str]]:
    """Cells with an answer that hit the token limit."""
    rows = answers.filter(pl.col("finish_reason") != "stop").select("persona", "question_id").rows()
    return {(str(persona), str(question)) for persona, question in rows}


def _previews(
    settings: StatesSettings, conversations: Conversations, own: _Answered
) -> dict[str, list[dict[str, Any]]]:
    """Decoded tokens of a few rows per position, with the (last) index that is read."""
    chosen = own.rows[:: max(1, len(own.rows) // PREVIEWED)]
    return {
        position: [
            {
                "persona": row.persona, "question_id": row.question_id,
                "tokens": conversations.pieces(row.tokens), "index": row.indices(position)[-1],
            }
            for row in chosen
        ]
        for position in settings.positions
    }  # fmt: skip
