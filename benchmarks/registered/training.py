"""Optimiser steps as the stages make them: the coupling's and the finetune's, driver and optimiser included."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from bench import Bench, adapted, trained_weights
from results import Measured, Unit

from flatprobe.data.coupling_examples import CouplingExample, MarkerText, negative, positive
from flatprobe.generation.sample import prompts_of
from flatprobe.study.questions import take
from flatprobe.study.recipe_schema import CouplingRecipe, Recipe
from flatprobe.training.driver import StepLoss, train
from flatprobe.training.finetune import answer_loss, epoch_batches
from flatprobe.training.lora import attach
from flatprobe.training.losses import collect
from flatprobe.training.steps import CouplingLoss, plan_batches

WARMUP = 2  # steps: kernels are chosen and optimiser states made
SEED = 42


def coupling(bench: Bench) -> Iterator[Measured]:
    """The registered coupling at the middle lambda, in micro-batches of several sizes."""
    study, loaded = bench.study.study, bench.loaded
    recipe = study.coupling.recipe.model_copy(update={"epochs": 1.0})
    examples = _examples(bench, recipe)
    batches = plan_batches(examples, recipe, np.random.default_rng(SEED))
    lengths = [[len(row.tokens) for row in example.rows] for example in examples]
    targets = [len(collect([example], with_anchor=False).token) for example in examples]
    lambda_ = sorted(study.coupling.unlikelihood.lambdas)[len(study.coupling.unlikelihood.lambdas) // 2]
    for rows in bench.options.training_rows:

        def parts_of(wrapped: Any, rows: int = rows) -> StepLoss:
            return CouplingLoss(
                loaded, wrapped, examples, batches, recipe, lambda_, training_rows=rows,
                forward_rows=bench.options.forward_rows,
            ).of_step  # fmt: skip

        flat = [
            ([n for number in step for n in lengths[number]], sum(targets[n] for n in step))
            for step in batches
        ]
        yield _steps(bench, "coupling step", rows, recipe, flat, parts_of)


def finetune(bench: Bench) -> Iterator[Measured]:
    """The registered finetune, in micro-batches of several sizes."""
    loaded, recipe, options = bench.loaded, bench.study.study.finetune, bench.options
    data = [
        loaded.conversations.encode_messages(
            [
                {"role": "user", "content": bench.texts.answer(options.finetune_prompt)},
                {"role": "assistant", "content": bench.texts.answer(options.finetune_answer)},
            ]
        )
        for _ in range(_wanted(bench, recipe.batch))
    ]
    batches = epoch_batches(len(data), recipe.batch, 1.0, np.random.default_rng(SEED))
    flat = [
        ([len(data[n][0]) for n in step], sum(len(data[n][0]) - data[n][1] for n in step)) for step in batches
    ]
    for rows in options.training_rows:

        def parts_of(wrapped: Any, rows: int = rows) -> StepLoss:
            return answer_loss(loaded, data, batches, rows)

        yield _steps(bench, "finetune step", rows, recipe, flat, parts_of)


def _wanted(bench: Bench, batch: int) -> int:
    """Examples for all steps, and one step more whose beginning ends the last timed one."""
    return batch * (WARMUP + bench.options.steps + 1)


def _examples(bench: Bench, recipe: CouplingRecipe) -> list[CouplingExample]:
    """Source and negatives in equal numbers, as registered, on coupling questions."""
    study = bench.study.study
    questions = take(bench.study.questions["coupling"], study.questions.coupling)
    trained = [persona for persona in bench.study.personas() if persona.role in ("source", "negative")]
    text = MarkerText(recipe.separator, study.leakage.marker, recipe.separator_in_loss, recipe.at)
    by_question = [(p, q) for q in questions for p in trained]
    examples = []
    for persona, question in islice(cycle(by_question), _wanted(bench, recipe.batch)):
        (prompt,) = prompts_of([persona], [question])
        make = positive if persona.role == "source" else negative
        examples.append(
            make(bench.loaded.conversations, prompt, bench.texts.answer(bench.options.answer), text)
        )
    return examples


def _steps(
    bench: Bench,
    part: str,
    rows: int,
    recipe: Recipe,
    steps: Sequence[tuple[Sequence[int], int]],
    parts_of: Callable[[Any], StepLoss],
) -> Measured:
    """Time optimiser steps; `steps` holds each one's row lengths and supervised tokens."""

    def run() -> Iterator[Unit]:
        marks: list[float] = []
        with adapted(attach(bench.loaded.model, recipe.lora, SEED)) as wrapped:
            adapter, parts = trained_weights(wrapped), parts_of(wrapped)

            def marked(step: int) -> Any:
                bench.wait()
                marks.append(time.perf_counter())
                return parts(step)

            with tempfile.TemporaryDirectory() as folder:
                train(
                    wrapped, marked, Path(folder), bench.loaded.device,
                    recipe=recipe, steps=len(steps), seed=SEED,
                )  # fmt: skip
        for number in range(WARMUP, len(steps) - 1):
            lengths, supervised = steps[number]
            flops = bench.size.training(lengths, supervised, adapter)
            yield Unit(sum(lengths), marks[number + 1] - marks[number], flops)

    return bench.measured(part, rows, run)
