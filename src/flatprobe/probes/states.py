"""Stage: hidden states of one checkpoint, for all personas, questions, layers and positions, and their headroom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
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
from flatprobe.statistics.geometry.states import StateKind

PREVIEWED = 4  # rows per position in the token preview
LayerValues = dict[str, float]
"""Layer to a value."""


def capture(settings: StatesSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Record states on own and fixed responses.

    Inputs: `checkpoint`, `own` (this checkpoint's answers), `fixed` (the control's answers). Output: states.safetensors
    with `own.POSITION` and `fixed.POSITION`, [P, Q, L, D] float32; index.json (axes, cells with an unfinished own
    answer, questions with an unfinished fixed answer); preview.json (decoded tokens and the index that is read);
    facts.json (counts, and the headroom per position and layer).

    With several sampled answers per question, a cell's state is the mean over them. States at positions in the prompt
    do not depend on the answer. A cell is unfinished if one of its answers was cut at the token limit or is empty. A
    cut answer gets an end of turn that the model did not produce, for `turn_end_token`. An empty answer has no content
    token; its end of turn is read instead.

    Raises:
        UserError: the model is unsuitable or lacks a layer, a row exceeds its context, or a state is not finite.
    """
    local = current_machine()
    loaded = held_checkpoint(inputs["checkpoint"], settings.precision, pick_device(local.device))
    frames = {role: pl.read_parquet(inputs[role] / "completions.parquet") for role in ("own", "fixed")}
    frames["fixed"] = frames["fixed"].filter(pl.col("persona") == settings.fixed_persona)
    prompts = prompts_of(settings.personas, settings.questions)
    own = _own_responses(loaded.conversations, prompts, frames["own"])
    fixed = _fixed_responses(loaded.conversations, prompts, frames["fixed"])
    rows = [*own.rows, *fixed.rows]
    reading = read_states(
        loaded,
        rows,
        settings.layers,
        settings.positions,
        batch=local.forward_rows,
        cells=[*own.cells, *(len(prompts) + cell for cell in fixed.cells)],
        report=lambda done: report_progress(done, len(rows), "states"),
    )
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
    headrooms = {kind: headroom(settings, values) for kind, values in arrays.items()}
    facts = StatesFacts(
        cells=len(prompts),
        questions=len(settings.questions),
        answers=len(own.rows),
        unfinished=len(index["unfinished"]),
        empty=sum(row.empty for row in own.rows),
        unfinished_fixed=len(index["unfinished_fixed"]),
        tokens=reading.tokens,
        computed_tokens=reading.computed,
        headroom={position: headrooms[StateKind("own", position)] for position in settings.positions},
        headroom_fixed={position: headrooms[StateKind("fixed", position)] for position in settings.positions},
        headroom_mean={str(kind): mean_over_layers(values) for kind, values in headrooms.items()},
    )
    write_facts(output, facts)


def axes(settings: StatesSettings) -> dict[str, Any]:
    """The names along each axis of the stored arrays."""
    return {
        "personas": [persona.name for persona in settings.personas],
        "questions": [question.id for question in settings.questions],
        "layers": list(settings.layers),
        "positions": list(settings.positions),
    }


def headroom(settings: StatesSettings, states: NDArray[np.float32]) -> LayerValues | None:
    """By how much the source's cosine with the bystanders can rise at most, per layer, from states [P, Q, L, D].

    It is 1 minus the mean cosine between the centroid of the source and those of the bystanders. None without
    bystanders.
    """
    roles = [persona.role for persona in settings.personas]
    if "bystander" not in roles:
        return None
    centroids: NDArray[Any] = states.mean(1, dtype=np.float64)  # [P, L, D]
    unit = centroids / np.linalg.norm(centroids, axis=-1, keepdims=True)
    bystanders = unit[[index for index, role in enumerate(roles) if role == "bystander"]]
    cosines = np.einsum("pld,ld->l", bystanders, unit[roles.index("source")]) / len(bystanders)
    return {str(layer): 1.0 - float(cosine) for layer, cosine in zip(settings.layers, cosines, strict=True)}


def mean_over_layers(values: LayerValues | None) -> float | None:
    """Headroom of the mean cosine over layers, which the registered measure uses."""
    return None if values is None else float(np.mean(list(values.values())))


@dataclass(frozen=True)
class _Responses:
    """The rows of own or fixed responses. A cell has one row per sample."""

    rows: list[ProbedRow]
    cells: list[int]
    """Each row's cell: the index of its prompt."""
    unfinished: set[tuple[str, str]]
    """Persona and question of answers that were cut or are empty."""


def _own_responses(conversations: Conversations, prompts: Sequence[Prompt], answers: pl.DataFrame) -> _Responses:
    """Every persona with its own answers."""
    texts = _texts(answers, "persona", "question_id")
    return _responses(conversations, prompts, [texts[p.persona, p.question_id] for p in prompts], _cut(answers))


def _fixed_responses(conversations: Conversations, prompts: Sequence[Prompt], answers: pl.DataFrame) -> _Responses:
    """Every persona with the same answers."""
    texts = _texts(answers, "question_id")
    return _responses(conversations, prompts, [texts[(p.question_id,)] for p in prompts], _cut(answers))


def _responses(
    conversations: Conversations, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], cut: set[tuple[str, str]]
) -> _Responses:
    pairs = [
        (cell, probed_row(conversations, prompt, text))
        for cell, (prompt, samples) in enumerate(zip(prompts, texts, strict=True))
        for text in samples
    ]
    empty = {(row.persona, row.question_id) for _, row in pairs if row.empty}
    return _Responses([row for _, row in pairs], [cell for cell, _ in pairs], cut | empty)


def _texts(answers: pl.DataFrame, *by: str) -> dict[tuple[Any, ...], list[str]]:
    """The answers of each cell, by sample index."""
    ordered = answers.sort("sample_index").group_by(*by, maintain_order=True).agg("text")
    return {tuple(row[name] for name in by): row["text"] for row in ordered.iter_rows(named=True)}


def _cut(answers: pl.DataFrame) -> set[tuple[str, str]]:
    """Cells with an answer that was cut at the token limit."""
    rows = answers.filter(pl.col("finish_reason") != "stop").select("persona", "question_id").rows()
    return {(str(persona), str(question)) for persona, question in rows}


def _previews(
    settings: StatesSettings, conversations: Conversations, own: _Responses
) -> dict[str, list[dict[str, Any]]]:
    """Decoded tokens of a few rows per position, and the (last) index that is read."""
    rows = own.rows[:: max(1, len(own.rows) // PREVIEWED)]
    return {
        position: [
            {
                "persona": row.persona,
                "question_id": row.question_id,
                "tokens": conversations.pieces(row.tokens),
                "index": row.indices(position)[-1],
            }
            for row in rows
        ]
        for position in settings.positions
    }
