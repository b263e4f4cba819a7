"""Stage: the hidden states of one checkpoint, all personas, questions, layers and positions in one pass."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file
from torch import Tensor

from flatprobe import machine
from flatprobe.activations.positions import ProbedRow, probed_row
from flatprobe.activations.record import record, run_recorded
from flatprobe.errors import UserError
from flatprobe.generation.stages import prompts_of
from flatprobe.models.load import Loaded, load_checkpoint, pick_device
from flatprobe.pipeline.progress import report_progress
from flatprobe.pipeline.settings import StatesSettings
from flatprobe.study.schema import Position
from flatprobe.training.supervised import right_padded

PREVIEWED = 4  # rows per position in the token preview


def capture(settings: StatesSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Record states on own and on fixed responses.

    Inputs: `checkpoint`, `own` (this checkpoint's greedy answers), `fixed` (the control's). Output:
    states.safetensors with `own.POSITION` and `fixed.POSITION`, [P, Q, L, D] float32; index.json (axes, cells whose own
    answer is unfinished, questions whose fixed answer is); preview.json (decoded tokens with the probed index);
    facts.json (their counts, and the headroom per position and layer).

    An empty answer counts as unfinished: its end of turn stands in for the content token it has not.

    Raises:
        UserError: a state that is not finite.
    """
    local = machine.current()
    loaded = load_checkpoint(inputs["checkpoint"], settings.precision, pick_device(local.device))
    own = pl.read_parquet(inputs["own"] / "completions.parquet")
    fixed = pl.read_parquet(inputs["fixed"] / "completions.parquet").filter(
        pl.col("persona") == settings.fixed_persona
    )
    texts = {
        "own": {(r["persona"], r["question_id"]): r["text"] for r in own.iter_rows(named=True)},
        "fixed": {
            (persona.name, r["question_id"]): r["text"]
            for r in fixed.iter_rows(named=True)
            for persona in settings.personas
        },
    }
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    previews: dict[str, list[dict[str, Any]]] = {}
    empty: dict[str, set[tuple[str, str]]] = {}
    prompts = prompts_of(settings.personas, settings.questions)
    total = len(prompts)
    for turn, (kind, answers) in enumerate(texts.items()):
        rows = [
            probed_row(loaded.conversations, prompt, answers[prompt.persona, prompt.question_id])
            for prompt in prompts
        ]
        empty[kind] = {(p.persona, p.question_id) for p, row in zip(prompts, rows, strict=True) if row.empty}
        before = turn * total
        states = read_states(
            loaded, rows, settings.layers, settings.positions, local.forward_rows,
            lambda done, before=before: report_progress(before + done, 2 * total, "states"),
        )  # fmt: skip
        shape = (len(settings.personas), len(settings.questions))
        for position, values in states.items():
            arrays[f"{kind}.{position}"] = values.reshape(*shape, *values.shape[1:])
        if kind == "own":
            previews = _previews(settings, loaded, rows)
    save_file(arrays, output / "states.safetensors")
    index = axes(settings) | {
        "unfinished": sorted(_cut(own) | empty["own"], key=list(texts["own"]).index),
        "unfinished_fixed": sorted({question for _, question in _cut(fixed) | empty["fixed"]}),
    }
    (output / "index.json").write_text(json.dumps(index))
    (output / "preview.json").write_text(json.dumps(previews))
    facts = {
        "answers": own.height, "unfinished": len(index["unfinished"]), "empty": len(empty["own"]),
        "unfinished_fixed": len(index["unfinished_fixed"]),
        "headroom": {position: headroom(settings, arrays[f"own.{position}"]) for position in settings.positions},
    }  # fmt: skip
    (output / "facts.json").write_text(json.dumps(facts))


def axes(settings: StatesSettings) -> dict[str, Any]:
    """Names along the axes of the stored arrays."""
    return {
        "personas": [persona.name for persona in settings.personas],
        "questions": [question.id for question in settings.questions],
        "layers": list(settings.layers),
        "positions": list(settings.positions),
    }


def _cut(answers: pl.DataFrame) -> set[tuple[str, str]]:
    """Cells whose answer hit the token limit."""
    rows = answers.filter(pl.col("finish_reason") != "stop").select("persona", "question_id").rows()
    return {(str(persona), str(question)) for persona, question in rows}


def headroom(settings: StatesSettings, states: np.ndarray[Any, Any]) -> dict[str, float] | None:
    """1 - the mean cosine of the source's centroid with the bystanders', per layer, from states [P, Q, L, D].

    It bounds any later rise of that cosine, and is known as soon as the control's states are. None without bystanders.
    """
    roles = [persona.role for persona in settings.personas]
    if "bystander" not in roles:
        return None
    centroids = states.astype(np.float64).mean(1)  # [P, L, D]
    unit = centroids / np.linalg.norm(centroids, axis=-1, keepdims=True)
    bystanders = unit[[place for place, role in enumerate(roles) if role == "bystander"]]
    cosines = np.einsum("pld,ld->l", bystanders, unit[roles.index("source")]) / len(bystanders)
    return {str(layer): 1.0 - float(cosine) for layer, cosine in zip(settings.layers, cosines, strict=True)}


@torch.inference_mode()
def read_states(
    loaded: Loaded,
    rows: Sequence[ProbedRow],
    layers: Sequence[int],
    positions: Sequence[Position],
    batch: int,
    report: Any,
) -> dict[Position, np.ndarray[Any, Any]]:
    """States per position, [N, L, D] float32, in the rows' order; the forward pass ends after the last layer."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    found: dict[Position, list[Tensor]] = {position: [torch.empty(0)] * len(rows) for position in positions}
    decoder = loaded.model.get_decoder()
    with record(decoder, layers) as recording:
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            ids, mask = right_padded(
                [rows[i].tokens for i in chunk], loaded.conversations.turn_end, loaded.device
            )
            run_recorded(decoder, input_ids=ids, attention_mask=mask)
            states = torch.stack([recording.states[layer] for layer in layers], dim=2)  # [B, T, L, D]
            for place, index in enumerate(chunk):
                for position in positions:
                    where = rows[index].indices(position)
                    found[position][index] = states[place, where.start : where.stop].float().mean(0).cpu()
            report(min(start + batch, len(order)))
    arrays = {position: torch.stack(values).numpy() for position, values in found.items()}
    for position, values in arrays.items():
        if not np.isfinite(values).all():
            n, layer, _ = np.argwhere(~np.isfinite(values))[0]
            raise UserError.one(
                f"geometry: {position}", f"the state of row {n} at layer {layers[layer]} is not finite",
                "use precision float32",
            )  # fmt: skip
    return arrays


def _previews(
    settings: StatesSettings, loaded: Loaded, rows: Sequence[ProbedRow]
) -> dict[str, list[dict[str, Any]]]:
    """Decoded tokens of a few rows per position, with the (last) index that is read."""
    prompts = prompts_of(settings.personas, settings.questions)
    chosen = range(0, len(rows), max(1, len(rows) // PREVIEWED))
    return {
        position: [
            {
                "persona": prompts[n].persona, "question_id": prompts[n].question_id,
                "tokens": loaded.conversations.pieces(rows[n].tokens), "index": rows[n].indices(position)[-1],
            }
            for n in chosen
        ]
        for position in settings.positions
    }  # fmt: skip
