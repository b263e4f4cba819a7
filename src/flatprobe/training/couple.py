"""Stage: the LoRA that couples the marker to the source, on top of one condition's checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from flatprobe import machine
from flatprobe.data.conversation import Conversations, Prompt
from flatprobe.data.coupling import Example, Group, MarkerText, negative, positive
from flatprobe.errors import UserError
from flatprobe.models.load import Loaded, load_checkpoint, pick_device
from flatprobe.pipeline.settings import CoupleSettings, CouplingRecipe
from flatprobe.training.audit import audit_examples, audited_share
from flatprobe.training.driver import Optimisation, train
from flatprobe.training.finetune import epoch_batches
from flatprobe.training.frozen import LowerStates
from flatprobe.training.lora import attach, require_learnt
from flatprobe.training.losses import Weights, collect, coupling_loss
from flatprobe.training.supervised import token_log_probabilities
from flatprobe.training.telemetry import marker_log_probabilities

INERT = 1e-6  # P(marker) at the unlikelihood term's slot below which the term's gradient is numerically nil


def couple(settings: CoupleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Train the coupling. Inputs: `checkpoint`, `examples`, `telemetry` (greedy answers), optionally `selection`.

    Output: adapter/, losses.parquet, telemetry.parquet (log P(separator, marker | own answer) before and after, in
    nats), audit.json (decoded tokens with their loss terms), facts.json.
    """
    recipe, local = settings.recipe, machine.current()
    device = pick_device(local.device)
    loaded = load_checkpoint(inputs["checkpoint"], recipe.precision, device)
    lambda_ = settings.lambda_
    if lambda_ is None:
        lambda_ = float(json.loads((inputs["selection"] / "selection.json").read_text())["selected"])
    frame = pl.read_parquet(inputs["examples"] / "examples.parquet")
    answered, text = answers_of(settings, frame), marker_text(settings)
    examples = build_examples(settings, answered, loaded.conversations)
    (output / "audit.json").write_text(
        json.dumps(audit_examples(settings.condition, examples, loaded.conversations))
    )
    audited = audited_share(examples, [(a.prompt, a.text) for a in answered], loaded.conversations, text)
    answers = pl.read_parquet(inputs["telemetry"] / "completions.parquet")
    telemetry = [_telemetry(settings, answers, loaded, 0)]
    batches = plan_batches(examples, recipe, np.random.default_rng(settings.seed))
    wrapped = attach(loaded.model, recipe.lora, settings.seed)
    parts = _parts(loaded, examples, batches, recipe, lambda_, local.training_rows)
    optimisation = Optimisation(
        steps=len(batches), learning_rate=recipe.learning_rate, schedule=recipe.schedule,
        warmup=recipe.warmup, weight_decay=recipe.weight_decay, clip=recipe.clip, seed=settings.seed,
    )  # fmt: skip
    records = train(wrapped, parts, optimisation, output / "trainer", device)
    norm = require_learnt(wrapped, f"coupling of {settings.condition}")
    telemetry.append(_telemetry(settings, answers, loaded, len(batches)))
    wrapped.save_pretrained(output / "adapter", safe_serialization=True)
    pl.DataFrame(records).write_parquet(output / "losses.parquet")
    pl.concat(telemetry).write_parquet(output / "telemetry.parquet")
    counts = {group: sum(e.group == group for e in examples) for group in ("positive", "negative")}
    slot = unlikelihood_at_start(records)
    facts = {
        "lambda": lambda_, "steps": len(batches), "adapter_norm": norm, "examples": counts, "audited": audited,
        "unlikelihood_at_start": slot, "inert": None if slot is None else slot < INERT,
    }  # fmt: skip
    (output / "facts.json").write_text(json.dumps(facts))


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


def unlikelihood_at_start(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean -log(1 - P(marker)) at the negatives' slot, over those of the first step that has any, in nats.

    It is P itself where P is small. Below `INERT` its gradient is numerically nil: the term then teaches nothing until
    the marker has become likelier there.
    """
    return next((float(r["value"]) for r in records if r["term"] == "negative/unlikelihood"), None)


def build_examples(
    settings: CoupleSettings, answered: Sequence[Answered], conversations: Conversations
) -> list[Example]:
    """The answers as token rows with their loss terms, in their order.

    Raises:
        UserError: no positive or no negative example, or one that is longer than the recipe allows.
    """
    recipe, text = settings.recipe, marker_text(settings)
    make = {"positive": positive, "negative": negative}
    examples = [make[a.group](conversations, a.prompt, a.text, text) for a in answered]
    if {example.group for example in examples} != {"positive", "negative"}:
        raise UserError.one(f"coupling of {settings.condition}", "needs positive and negative examples")
    longest = max(len(row.tokens) for example in examples for row in example.rows)
    if longest > recipe.max_length:
        raise UserError.one(
            f"coupling of {settings.condition}",
            f"an example has {longest} tokens",
            "raise coupling.max_length",
        )
    return examples


def plan_batches(examples: Sequence[Example], recipe: CouplingRecipe, generator: Any) -> list[list[int]]:
    """Numbers of the examples of each step.

    With `positives_per_batch`, positives and negatives are shuffled and cycled apart, and an epoch is a pass over
    the positives; otherwise all are shuffled together.
    """
    if recipe.positives_per_batch is None:
        return epoch_batches(len(examples), recipe.batch, recipe.epochs, generator)
    groups = {
        group: [number for number, example in enumerate(examples) if example.group == group]
        for group in ("positive", "negative")
    }
    sizes = {"positive": recipe.positives_per_batch, "negative": recipe.batch - recipe.positives_per_batch}
    steps = max(1, round(recipe.epochs * len(groups["positive"]) / sizes["positive"]))
    streams = {group: _cycle(numbers, steps * sizes[group], generator) for group, numbers in groups.items()}
    return [
        [
            number
            for group, size in sizes.items()
            for number in streams[group][step * size : (step + 1) * size]
        ]
        for step in range(steps)
    ]


def _cycle(numbers: Sequence[int], length: int, generator: Any) -> list[int]:
    """`length` numbers from repeated, freshly shuffled passes."""
    passes = math.ceil(length / len(numbers))
    return [numbers[index] for _ in range(passes) for index in generator.permutation(len(numbers))][:length]


def _parts(
    loaded: Loaded,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    recipe: CouplingRecipe,
    lambda_: float,
    micro_batch: int,
) -> Any:
    """The coupling loss by steps; parts are weighted by the whole batch's counts, so micro-batches do not matter."""
    weights = Weights(
        lambda_, recipe.anchor.weight if recipe.anchor.kind != "none" else 0.0, recipe.positive_weight
    )
    first_row = np.cumsum([0, *(len(example.rows) for example in examples)]).tolist()
    rows = [row.tokens for example in examples for row in example.rows]
    lower = LowerStates(
        loaded.model,
        recipe.lora.first_layer,
        rows,
        loaded.conversations.turn_end,
        machine.current().forward_rows,
    )

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        counts: dict[Group, int] = {"positive": 0, "negative": 0}
        for n in batches[step]:
            counts[examples[n].group] += 1
        for start in range(0, len(batches[step]), micro_batch):
            numbers = batches[step][start : start + micro_batch]
            supervised = collect([examples[n] for n in numbers], with_anchor=weights.anchor > 0).of_batch(
                counts
            )
            states = lower.forward([r for n in numbers for r in range(first_row[n], first_row[n + 1])])
            wanted = states[supervised.row.to(states.device), supervised.position.to(states.device)]
            log_p = token_log_probabilities(loaded.model, wanted, supervised.token.to(states.device))
            yield coupling_loss(log_p, supervised, weights)

    return parts


def _telemetry(settings: CoupleSettings, answers: pl.DataFrame, loaded: Loaded, step: int) -> pl.DataFrame:
    return marker_log_probabilities(
        loaded, settings.personas, settings.calibration, answers, settings.recipe.separator, settings.marker
    ).with_columns(step=pl.lit(step, dtype=pl.Int64))
