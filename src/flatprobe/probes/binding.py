"""Stage: does the marker follow the persona or the shape of its answers? Read without sampling."""

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
from flatprobe.pipeline.progress import report_progress
from flatprobe.planner.contracts import BindingSettings
from flatprobe.statistics.binding.effects import effects
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.training.telemetry import finished, sequence_log_likelihoods


@dataclass(frozen=True)
class Reading:
    """The marker behind one persona's answer under one persona's system prompt."""

    bystander: str
    prompt: Persona  # whose system prompt is in force
    writer: Persona  # whose answer it is
    question: Question


def measure(settings: BindingSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Read a coupling's 2 x 2 of system prompt and answer text.

    Inputs: `checkpoint`; `adapter`, the coupling; `own`, the checkpoint's greedy answers from before the coupling.
    Output: binding.parquet (persona: the bystander, question_id, prompt, text, log_p: log P(separator, marker) in
    nats), binding_effects.parquet, facts.json.

    Raises:
        UserError: no question to which the source and a bystander gave a finished answer.
    """
    answers = pl.read_parquet(inputs["own"] / "completions.parquet")
    texts = finished(answers)
    readings = readings_of(settings, texts)
    if not readings:
        raise UserError.one(
            "binding.TODO",
 "binding", f"no question to which {settings.source.name} and a bystander gave a finished answer",
            "raise geometry.max_new_tokens, or give the questions a suffix that asks for a length",
        )  # fmt: skip
    loaded = held_checkpoint(inputs["checkpoint"], settings.precision, pick_device(current_machine().device))
    for persona in (settings.source, *settings.bystanders):
        loaded.conversations.check_persona(persona.name, persona.system)
    switch = AdapterSwitch(loaded.model)
    switch.use(inputs["adapter"] / "adapter")
    try:
        cells = read(loaded, readings, texts, settings)
    finally:
        switch.use(None)
    cells.write_parquet(output / "binding.parquet")
    effects(cells, settings.level).write_parquet(output / "binding_effects.parquet")
    wanted = len(settings.bystanders) * len(settings.questions)
    turn = loaded.conversations.system_turn
    facts = BindingFacts(
        pairs=cells.select("persona", "question_id").unique().height,
        pairs_asked=wanted,
        system=turn.system,
        template_default=turn.default,
    )
    write_facts(output, facts)


def readings_of(settings: BindingSettings, texts: Mapping[tuple[str, str], str]) -> list[Reading]:
    """The four readings of each bystander and question to which it and the source have an answer."""
    source = settings.source
    return [
        Reading(bystander.name, prompt, writer, question)
        for bystander in settings.bystanders
        for question in settings.questions
        if (source.name, question.id) in texts and (bystander.name, question.id) in texts
        for prompt in (source, bystander)
        for writer in (source, bystander)
    ]


def read(
    loaded: Loaded,
    readings: Sequence[Reading],
    texts: Mapping[tuple[str, str], str],
    settings: BindingSettings,
) -> pl.DataFrame:
    """log P(separator, marker) per reading; the source's own one is computed once and shared by all bystanders."""
    joints = {}
    for reading in readings:
        question = reading.question
        key = (reading.prompt.name, reading.writer.name, question.id)
        if key not in joints:
            prompt = Prompt(reading.prompt.name, reading.prompt.system, question.id, question.text)
            text = texts[reading.writer.name, question.id]
            joints[key] = tokenise_jointly(
                loaded.conversations, prompt, text, settings.separator, settings.marker
            )[1]
    order = sorted(joints, key=lambda key: len(joints[key].tokens))
    scores: dict[tuple[str, str, str], float] = {}
    size = current_machine().forward_rows
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        found = sequence_log_likelihoods(
            loaded, [(joints[key].tokens, joints[key].suffix_start) for key in chunk]
        )
        scores |= dict(zip(chunk, found, strict=True))
        report_progress(min(start + size, len(order)), len(order), "markers read")
    source = settings.source.name
    return pl.DataFrame(
        [
            {
                "persona": r.bystander, "question_id": r.question.id,
                "prompt": "source" if r.prompt.name == source else "bystander",
                "text": "source" if r.writer.name == source else "bystander",
                "log_p": scores[r.prompt.name, r.writer.name, r.question.id],
            }
            for r in readings
        ],
        schema={
            "persona": pl.String, "question_id": pl.String, "prompt": pl.String, "text": pl.String, "log_p": pl.Float64,
        },
    )  # fmt: skip
