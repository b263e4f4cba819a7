"""Stage: does the marker follow the persona's prompt or the text of its answers? Measured without sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatprobe.data.coupling_examples import tokenise_jointly
from flatprobe.errors import UserError
from flatprobe.facts import BindingFacts, write_facts
from flatprobe.generation.transformers_engine.adapters import AdapterSwitch
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded, held_checkpoint, pick_device
from flatprobe.planner.contracts import BindingSettings
from flatprobe.statistics.binding.effects import effects
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.training.telemetry import finished_texts, sequence_log_likelihoods


@dataclass(frozen=True)
class BindingCell:
    """The marker after one persona's answer, under the same or another persona's system prompt."""

    bystander: str
    prompt: Persona
    """Whose system prompt is used."""
    writer: Persona
    """Who gave the answer."""
    question: Question


def measure(settings: BindingSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Measure log P(separator, marker) in a 2 x 2 design: system prompt and answer, each the source's or a bystander's.

    Inputs: `checkpoint`; `adapter`, the coupling; `own`, the checkpoint's greedy answers without the coupling. Output:
    binding.parquet (persona: the bystander, question_id, prompt, text, log_p in nats), binding_effects.parquet,
    facts.json.

    Raises:
        UserError: there is no question that both the source and a bystander answered completely.
    """
    answers = pl.read_parquet(inputs["own"] / "completions.parquet")
    texts = finished_texts(answers)
    cells = binding_cells(settings, texts)
    if not cells:
        raise UserError.one(
            "binding.no_finished_answers",
            "binding",
            f"there is no question that both {settings.source.name} and a bystander answered completely",
            "raise geometry.max_new_tokens, or give the questions a suffix that asks for a length",
        )
    loaded = held_checkpoint(inputs["checkpoint"], settings.precision, pick_device(current_machine().device))
    for persona in (settings.source, *settings.bystanders):
        loaded.conversations.check_persona(persona.name, persona.system)
    switch = AdapterSwitch(loaded.model)
    switch.use(inputs["adapter"] / "adapter")
    try:
        table = score_cells(loaded, cells, texts, settings)
    finally:
        switch.use(None)
    table.write_parquet(output / "binding.parquet")
    effects(table, settings.level).write_parquet(output / "binding_effects.parquet")
    turn = loaded.conversations.system_turn
    facts = BindingFacts(
        pairs=table.select("persona", "question_id").unique().height,
        pairs_asked=len(settings.bystanders) * len(settings.questions),
        system=turn.system,
        template_default=turn.default,
    )
    write_facts(output, facts)


def binding_cells(settings: BindingSettings, texts: Mapping[tuple[str, str], str]) -> list[BindingCell]:
    """The four cells of each bystander and question, if both the bystander and the source have a text."""
    source = settings.source
    return [
        BindingCell(bystander.name, prompt, writer, question)
        for bystander in settings.bystanders
        for question in settings.questions
        if (source.name, question.id) in texts and (bystander.name, question.id) in texts
        for prompt in (source, bystander)
        for writer in (source, bystander)
    ]


def score_cells(
    loaded: Loaded, cells: Sequence[BindingCell], texts: Mapping[tuple[str, str], str], settings: BindingSettings
) -> pl.DataFrame:
    """log P(separator, marker) of each cell, in nats. Cells that bystanders share are computed once."""
    joints = {}
    for cell in cells:
        question = cell.question
        key = (cell.prompt.name, cell.writer.name, question.id)
        if key not in joints:
            prompt = Prompt(cell.prompt.name, cell.prompt.system, question.id, question.text)
            text = texts[cell.writer.name, question.id]
            joints[key] = tokenise_jointly(loaded.conversations, prompt, text, settings.separator, settings.marker)[1]
    marked = [(joint.tokens, joint.suffix_start) for joint in joints.values()]
    sums = sequence_log_likelihoods(loaded, marked, current_machine().forward_rows, "markers read")
    log_p = dict(zip(joints, sums, strict=True))
    source = settings.source.name
    return pl.DataFrame(
        [
            {
                "persona": cell.bystander,
                "question_id": cell.question.id,
                "prompt": "source" if cell.prompt.name == source else "bystander",
                "text": "source" if cell.writer.name == source else "bystander",
                "log_p": log_p[cell.prompt.name, cell.writer.name, cell.question.id],
            }
            for cell in cells
        ],
        schema={**dict.fromkeys(("persona", "question_id", "prompt", "text"), pl.String), "log_p": pl.Float64},
    )
