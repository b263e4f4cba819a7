"""Stage: the LoRA that couples the marker to the source, on top of one condition's checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flatprobe.data.coupling_examples import CouplingExample, Group, MarkerText, negative, positive
from flatprobe.errors import Problem, UserError
from flatprobe.facts import CoupleFacts, write_facts
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded, load_checkpoint, pick_device
from flatprobe.planner.contracts import CoupleSettings
from flatprobe.study.recipe_schema import CouplingRecipe
from flatprobe.training.audit.masks import audited_share
from flatprobe.training.driver import Readings, Trained, train
from flatprobe.training.findings import findings, source_log_p, unlikelihood_at_start
from flatprobe.training.lora import attach, require_learnt
from flatprobe.training.resume import checkpoint_folder, discard
from flatprobe.training.steps import CouplingLoss, plan_batches, steps_between_readings
from flatprobe.training.telemetry import SCHEMA, Telemetry, readings_of
from flatprobe.training.tracking import tracking_of

SHOWN = 5  # problems of examples that a message lists


def couple(settings: CoupleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Train the coupling. Inputs: `checkpoint`, `examples`, `telemetry` (greedy answers), optionally `selection`.

    Output: adapter/, losses.parquet, telemetry.parquet (one row per step and finished answer: log P(separator, marker |
    own answer) in nats, and how fluent the answer is), facts.json. With `source_probability`, the adapter is that of
    the first reading that reaches the level, else the last; `reached` says which.
    """
    recipe, local = settings.recipe, current_machine()
    loaded = load_checkpoint(inputs["checkpoint"], recipe.precision, pick_device(local.device))
    lambda_ = settings.lambda_
    if lambda_ is None:
        lambda_ = float(json.loads((inputs["selection"] / "selection.json").read_text())["selected"])
    frame = pl.read_parquet(inputs["examples"] / "examples.parquet")
    answered, text = answers_of(settings, frame), marker_text(settings)
    examples = build_examples(settings, answered, loaded.conversations)
    audited = audited_share(examples, [(a.prompt, a.text) for a in answered], loaded.conversations, text)
    batches = plan_batches(examples, recipe, np.random.default_rng(settings.seed))
    answers = pl.read_parquet(inputs["telemetry"] / "completions.parquet")
    readings = _readings(settings, loaded, answers, len(batches))
    wrapped = attach(loaded.model, recipe.lora, settings.seed)
    loss = CouplingLoss(
        loaded, wrapped, examples, batches, recipe, lambda_,
        training_rows=local.training_rows, forward_rows=local.forward_rows,
    )  # fmt: skip
    folder = checkpoint_folder(output)
    trained = train(
        wrapped,
        loss.parts,
        folder,
        loaded.device,
        recipe=recipe,
        steps=len(batches),
        seed=settings.seed,
        readings=readings,
        names=loss.names,
        tracking=tracking_of("couple", local.report_to, output),
        checkpoint_steps=local.checkpoint_steps,
    )
    adapter_norm = require_learnt(wrapped, f"coupling of {settings.condition}")
    wrapped.save_pretrained(output / "adapter", safe_serialization=True)
    facts = CoupleFacts(
        lambda_=lambda_,
        planned_steps=len(batches),
        audited=audited,
        adapter_norm=adapter_norm,
        examples={group: sum(e.group == group for e in examples) for group in ("positive", "negative")},
        **_written(trained, recipe, output),
    )
    write_facts(output, facts)
    discard(folder)


def _written(trained: Trained, recipe: CouplingRecipe, output: Path) -> dict[str, Any]:
    """Write the tables of a training; returns what they say."""
    pl.DataFrame(trained.losses).write_parquet(output / "losses.parquet")
    telemetry = pl.DataFrame(trained.readings, schema=SCHEMA)
    telemetry.write_parquet(output / "telemetry.parquet")
    slot = unlikelihood_at_start(trained.losses)
    found = findings(telemetry, slot, recipe.stop_at)
    inert = None if slot is None else "inert" in found["warnings"]
    return {"steps": trained.steps, "unlikelihood_at_start": slot, "inert": inert, **found}


@dataclass(frozen=True)
class Answered:
    """An answer to train on, as it was sampled."""

    prompt: Prompt
    text: str
    group: Group


def marker_text(settings: CoupleSettings) -> MarkerText:
    recipe = settings.recipe
    return MarkerText(recipe.separator, settings.marker, recipe.separator_in_loss, recipe.at)


def answers_of(settings: CoupleSettings, frame: pl.DataFrame) -> list[Answered]:
    """The condition's rows of the coupling data, with the prompts that they answer."""
    systems = {persona.name: persona.system for persona in settings.personas}
    questions = {question.id: question.text for question in settings.questions}
    return [
        Answered(
            Prompt(row["persona"], systems[row["persona"]], row["question_id"], questions[row["question_id"]]),
            row["text"], row["group"],
        )
        for row in frame.filter(pl.col("condition") == settings.condition).iter_rows(named=True)
    ]  # fmt: skip


def build_examples(
    settings: CoupleSettings, answered: Sequence[Answered], conversations: Conversations
) -> list[CouplingExample]:
    """The answers as token rows with their loss terms, in their order.

    Raises:
        UserError: no positive or no negative example; answers that are empty, that hold the marker, or that would have
            to be cut. Nothing is ever cut: the cut would take separator, marker or end of turn.
    """
    recipe, text = settings.recipe, marker_text(settings)
    if {a.group for a in answered} != {"positive", "negative"}:
        raise UserError.one(
            "couple.TODO", f"coupling of {settings.condition}", "needs positive and negative examples"
        )
    _refuse(settings, list(_bad_answers(settings, answered)))
    make = {"positive": positive, "negative": negative}
    examples = [make[a.group](conversations, a.prompt, a.text, text) for a in answered]
    longest = [max(len(row.tokens) for row in example.rows) for example in examples]
    too_long = [
        Problem(
            "couple.TODO",
            f"{example.persona}/{example.question_id}",
            f"has {length} tokens with its marker, {length - recipe.max_length} more than coupling.max_length",
            "raise coupling.max_length, or lower coupling.max_new_tokens",
        )
        for example, length in zip(examples, longest, strict=True)
        if length > recipe.max_length
    ]
    _refuse(settings, too_long)
    return examples


def _bad_answers(settings: CoupleSettings, answered: Sequence[Answered]) -> Iterator[Problem]:
    """Answers that cannot be trained on."""
    for a in answered:
        place = f"{a.prompt.persona}/{a.prompt.question_id}"
        if not a.text.strip():
            yield Problem("couple.TODO", place, "the answer is empty", "drop it from the coupling data")
        elif settings.marker.lower() in a.text.lower():
            yield Problem(
                "couple.TODO",
                place,
                f"the answer already holds {settings.marker}",
                "drop it, or choose another marker",
            )


def _refuse(settings: CoupleSettings, problems: Sequence[Problem]) -> None:
    if not problems:
        return
    place = f"coupling of {settings.condition}"
    shown = [Problem("couple.TODO", f"{place}: {p.place}", p.message, p.remedy) for p in problems[:SHOWN]]
    rest = len(problems) - len(shown)
    raise UserError(
        [*shown, Problem("couple.TODO", place, f"and {rest} more examples like these")] if rest else shown
    )


def _readings(settings: CoupleSettings, loaded: Loaded, answers: pl.DataFrame, steps: int) -> Readings:
    """Telemetry of source, negatives and bystanders; with matched acquisition, it ends the training."""
    recipe = settings.recipe
    read = readings_of(
        loaded.conversations, (*settings.personas, *settings.bystanders), settings.calibration, answers,
        recipe.separator, settings.marker,
    )  # fmt: skip
    level = recipe.stop_at if recipe.stopping == "source_probability" else None
    if level is not None and all(reading.persona.role != "source" for reading in read):
        raise UserError.one(
            "couple.TODO",
            f"coupling of {settings.condition}",
            "no greedy answer of the source is finished: no level to stop at",
            "raise coupling.max_new_tokens, or coupling.telemetry_questions",
        )

    def enough(rows: list[dict[str, Any]]) -> bool:
        return level is not None and source_log_p(rows) >= level

    telemetry = Telemetry(loaded, read, recipe.lora.first_layer)
    return Readings(telemetry.read, steps_between_readings(recipe, steps), enough)
