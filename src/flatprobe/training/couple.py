"""Stage: the coupling, a LoRA on one condition's checkpoint that couples the marker to the source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from flatprobe.training.driver import Monitor, Trained, train
from flatprobe.training.findings import findings, source_log_p, unlikelihood_at_start
from flatprobe.training.lora import attach, require_learnt
from flatprobe.training.resume import checkpoint_folder, discard
from flatprobe.training.steps import CouplingLoss, plan_batches, steps_between_readings
from flatprobe.training.telemetry import SCHEMA, Telemetry, marked_answers
from flatprobe.training.tracking import tracking_of

SHOWN = 5  # largest number of problems with examples in a message


def couple(settings: CoupleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Train a coupling. Inputs: `checkpoint`, `examples`, `telemetry` (greedy answers), optionally `selection`.

    Output: adapter/, losses.parquet, telemetry.parquet (one row per reading and finished answer, see `Telemetry.read`),
    facts.json. With `stopping: source_probability`, training ends at the first reading that reaches `stop_at`, or after
    the last step; `reached` in the facts tells which.
    """
    recipe, local = settings.recipe, current_machine()
    loaded = load_checkpoint(inputs["checkpoint"], recipe.precision, pick_device(local.device))
    lambda_ = settings.lambda_
    if lambda_ is None:
        lambda_ = float(json.loads((inputs["selection"] / "selection.json").read_text())["selected"])
    frame = pl.read_parquet(inputs["examples"] / "examples.parquet")
    answers, text = answers_of(settings, frame), marker_text(settings)
    examples = build_examples(settings, answers, loaded.conversations)
    audited = audited_share(examples, [(a.prompt, a.text) for a in answers], loaded.conversations, text)
    batches = plan_batches(examples, recipe, np.random.default_rng(settings.seed))
    greedy_answers = pl.read_parquet(inputs["telemetry"] / "completions.parquet")
    monitor = _monitor(settings, loaded, greedy_answers, len(batches))
    wrapped = attach(loaded.model, recipe.lora, settings.seed)
    loss = CouplingLoss(
        loaded,
        wrapped,
        examples,
        batches,
        recipe,
        lambda_,
        training_rows=local.training_rows,
        forward_rows=local.forward_rows,
    )
    folder = checkpoint_folder(output)
    trained = train(
        wrapped,
        loss.of_step,
        folder,
        loaded.device,
        recipe=recipe,
        steps=len(batches),
        seed=settings.seed,
        monitor=monitor,
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
        **_write_tables(trained, recipe, output),
    )
    write_facts(output, facts)
    discard(folder)


def _write_tables(trained: Trained, recipe: CouplingRecipe, output: Path) -> dict[str, Any]:
    """Write the tables of a training; returns its facts."""
    pl.DataFrame(trained.losses).write_parquet(output / "losses.parquet")
    telemetry = pl.DataFrame(trained.readings, schema=SCHEMA)
    telemetry.write_parquet(output / "telemetry.parquet")
    slot = unlikelihood_at_start(trained.losses)
    facts = findings(telemetry, slot, recipe.stop_at)
    inert = None if slot is None else "inert" in facts["warnings"]
    return {"steps": trained.steps, "unlikelihood_at_start": slot, "inert": inert, **facts}


@dataclass(frozen=True)
class SampledAnswer:
    """A sampled answer, before it becomes a training example."""

    prompt: Prompt
    text: str
    group: Group


def marker_text(settings: CoupleSettings) -> MarkerText:
    recipe = settings.recipe
    return MarkerText(recipe.separator, settings.marker, recipe.separator_in_loss, recipe.at)


def answers_of(settings: CoupleSettings, frame: pl.DataFrame) -> list[SampledAnswer]:
    """The condition's rows of the coupling data, with their prompts."""
    systems = {persona.name: persona.system for persona in settings.personas}
    questions = {question.id: question.text for question in settings.questions}
    return [
        SampledAnswer(
            Prompt(row["persona"], systems[row["persona"]], row["question_id"], questions[row["question_id"]]),
            row["text"],
            row["group"],
        )
        for row in frame.filter(pl.col("condition") == settings.condition).iter_rows(named=True)
    ]


def build_examples(
    settings: CoupleSettings, answers: Sequence[SampledAnswer], conversations: Conversations
) -> list[CouplingExample]:
    """The training examples of the answers, in the same order.

    Raises:
        UserError: no positive or no negative example; an answer is empty, contains the marker, or is too long. Answers
            are never cut, because a cut removes separator, marker or end of turn.
    """
    recipe, text = settings.recipe, marker_text(settings)
    if {a.group for a in answers} != {"positive", "negative"}:
        raise UserError.one(
            "coupling.missing_group", f"coupling of {settings.condition}", "needs positive and negative examples"
        )
    _refuse(settings, list(_bad_answers(settings, answers)))
    make = {"positive": positive, "negative": negative}
    examples = [make[a.group](conversations, a.prompt, a.text, text) for a in answers]
    longest = [max(len(row.tokens) for row in example.rows) for example in examples]
    too_long = [
        Problem(
            "coupling.example_length",
            f"{example.persona}/{example.question_id}",
            f"has {length} tokens with its marker, {length - recipe.max_length} more than coupling.max_length",
            "raise coupling.max_length, or lower coupling.max_new_tokens",
        )
        for example, length in zip(examples, longest, strict=True)
        if length > recipe.max_length
    ]
    _refuse(settings, too_long)
    return examples


def _bad_answers(settings: CoupleSettings, answers: Sequence[SampledAnswer]) -> Iterator[Problem]:
    """Answers that are empty or contain the marker."""
    for answer in answers:
        place = f"{answer.prompt.persona}/{answer.prompt.question_id}"
        if not answer.text.strip():
            yield Problem("coupling.empty_answer", place, "the answer is empty", "remove it from the coupling data")
        elif settings.marker.lower() in answer.text.lower():
            yield Problem(
                "coupling.marker_in_answer",
                place,
                f"the answer already contains {settings.marker}",
                "remove it from the coupling data, or choose another marker",
            )


def _refuse(settings: CoupleSettings, problems: Sequence[Problem]) -> None:
    """Raise the first `SHOWN` problems, placed in the condition's coupling, and the number of others."""
    if not problems:
        return
    place = f"coupling of {settings.condition}"
    shown = [replace(problem, place=f"{place}: {problem.place}") for problem in problems[:SHOWN]]
    if hidden := len(problems) - len(shown):
        shown.append(Problem("problems.more", place, f"and {hidden} more examples like these"))
    raise UserError(shown)


def _monitor(settings: CoupleSettings, loaded: Loaded, greedy_answers: pl.DataFrame, steps: int) -> Monitor:
    """Telemetry of source, negatives and bystanders; with `source_probability`, it ends the training."""
    recipe = settings.recipe
    personas = (*settings.personas, *settings.bystanders)
    marked = marked_answers(
        loaded.conversations, personas, settings.calibration, greedy_answers, recipe.separator, settings.marker
    )
    stop_at = recipe.stop_at if recipe.stopping == "source_probability" else None
    if stop_at is not None and all(answer.persona.role != "source" for answer in marked):
        raise UserError.one(
            "coupling.no_source_answer",
            f"coupling of {settings.condition}",
            "the source has no finished greedy answer, so its log-probability to stop at cannot be read",
            "raise coupling.max_new_tokens, or coupling.telemetry_questions",
        )

    def stops(rows: list[dict[str, Any]]) -> bool:
        return stop_at is not None and source_log_p(rows) >= stop_at

    telemetry = Telemetry(loaded, marked, recipe.lora.first_layer)
    return Monitor(telemetry.read, steps_between_readings(recipe, steps), stops)
