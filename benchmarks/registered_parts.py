"""The timed parts of the registered study: geometry pass, coupling and finetune steps, sampling.

`registered_parts.py OPTIONS` measures all of them in one process (started by `registered_study.py`) and saves each
as it ends.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from device import measured_device, planned_work, wait
from flatprobe import console
from flatprobe.activations.positions import probed_row
from flatprobe.activations.read import read_states
from flatprobe.data.coupling_examples import CouplingExample, MarkerText, negative, positive
from flatprobe.generation.engine import CompletionRequest, SamplingSettings
from flatprobe.generation.sample import prompts_of
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.study.questions import take
from flatprobe.study.recipe_schema import CouplingRecipe, Recipe
from flatprobe.training.driver import StepLoss, train
from flatprobe.training.finetune import answer_loss, epoch_batches
from flatprobe.training.lora import attach
from flatprobe.training.losses import collect
from flatprobe.training.steps import CouplingLoss, plan_batches
from registered_bench import Bench, adapted, trained_weights
from registered_results import Measured, Results, Unit

WARMUP = 2  # steps: kernels are chosen and optimiser states created
SEED = 42
UPDATE = 1e-4  # about the size of a trained adapter's entries; the speed does not depend on it
SHORT = 8  # tokens of the warm-up of sampling


def main() -> None:
    """The ceilings first, then every part that is not skipped."""
    options = Namespace(**json.loads(sys.argv[1]))
    path = Path(options.json)
    bench = Bench.of(options)
    wait(bench.loaded.device)
    results = Results(_device(options))
    if "ceilings" not in options.skip:
        results.device |= asdict(measured_device(bench.loaded.device, torch.bfloat16))
    results.write(path)
    for name, part in PARTS.items():
        if name in options.skip:
            continue
        for measured in part(bench):
            results.add(measured, path)
            speed = measured.tokens_per_second
            outcome = f"{speed:,.0f} tokens/s" if speed else f"failed: {measured.failed}"
            console.console(stderr=True).print(f"{measured.part}, {measured.rows} rows: {outcome}")


def _device(options: Namespace) -> dict[str, Any]:
    on_gpu = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "shape": options.shape,
        "dtype": "bfloat16",
        "answer": options.answer,
        "finetune_answer": options.finetune_answer,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


# --- hidden states


def geometry(bench: Bench) -> Iterator[Measured]:
    """Own responses of the registered panel, at the registered layers and positions."""
    study, loaded = bench.study.study, bench.loaded
    questions = take(bench.study.questions["evaluation"], study.questions.evaluation)
    prompts = prompts_of(bench.study.personas()[: bench.options.personas], questions[: bench.options.questions])
    rows = [probed_row(loaded.conversations, p, bench.texts.answer(bench.options.answer)) for p in prompts]
    layers = [layer for layer in study.geometry.layers if layer < bench.cost.blocks]
    positions, batch = study.geometry.positions, bench.options.forward_rows
    work = planned_work(loaded, rows, batch, max(layers) + 1)
    tokens = sum(len(row.tokens) for row in rows)

    def once() -> Unit:
        seconds = bench.timed(lambda: read_states(loaded, rows, layers, positions, batch=batch))
        return Unit(tokens, seconds, work.flops, work.moved)

    def run() -> Iterator[Unit]:
        read_states(loaded, rows[: 2 * batch], layers, positions, batch=batch)
        yield from bench.repeated(once)

    yield bench.measured("geometry", batch, run)


# --- optimiser steps, driver and optimiser included


def coupling(bench: Bench) -> Iterator[Measured]:
    """The registered coupling at the middle lambda, in micro-batches of several sizes."""
    loaded, registered = bench.loaded, bench.coupling
    recipe = registered.recipe.model_copy(update={"epochs": 1.0})
    examples = _examples(bench, recipe)
    batches = plan_batches(examples, recipe, np.random.default_rng(SEED))
    lengths = [[len(row.tokens) for row in example.rows] for example in examples]
    targets = [len(collect([example], with_anchor=False).token) for example in examples]
    steps = [([n for number in step for n in lengths[number]], sum(targets[n] for n in step)) for step in batches]
    lambdas = sorted(registered.unlikelihood.lambdas)
    for rows in bench.options.training_rows:

        def loss_of(wrapped: Any, rows: int = rows) -> StepLoss:
            return CouplingLoss(
                loaded,
                wrapped,
                examples,
                batches,
                recipe,
                lambdas[len(lambdas) // 2],
                training_rows=rows,
                forward_rows=bench.options.forward_rows,
            ).of_step

        yield _steps(bench, "coupling step", rows, recipe, steps, loss_of)


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
        for _ in range(_number_of_examples(bench, recipe.batch))
    ]
    batches = epoch_batches(len(data), recipe.batch, 1.0, np.random.default_rng(SEED))
    steps = [([len(data[n][0]) for n in step], sum(len(data[n][0]) - data[n][1] for n in step)) for step in batches]
    for rows in options.training_rows:

        def loss_of(wrapped: Any, rows: int = rows) -> StepLoss:
            return answer_loss(loaded, data, batches, rows)

        yield _steps(bench, "finetune step", rows, recipe, steps, loss_of)


def _number_of_examples(bench: Bench, batch: int) -> int:
    """Examples for all steps and one more, whose start ends the last timed step."""
    steps: int = WARMUP + bench.options.steps + 1
    return batch * steps


def _examples(bench: Bench, recipe: CouplingRecipe) -> list[CouplingExample]:
    """Source and negatives in equal numbers, as registered, on coupling questions."""
    study = bench.study.study
    questions = take(bench.study.questions["coupling"], study.questions.coupling)
    trained = [persona for persona in bench.study.personas() if persona.role in ("source", "negative")]
    text = MarkerText(recipe.separator, study.leakage.marker, recipe.separator_in_loss, recipe.at)
    cells = [(persona, question) for question in questions for persona in trained]
    examples = []
    for persona, question in islice(cycle(cells), _number_of_examples(bench, recipe.batch)):
        (prompt,) = prompts_of([persona], [question])
        make = positive if persona.role == "source" else negative
        answer = bench.texts.answer(bench.options.answer)
        examples.append(make(bench.loaded.conversations, prompt, answer, text))
    return examples


def _steps(
    bench: Bench,
    part: str,
    rows: int,
    recipe: Recipe,
    steps: Sequence[tuple[Sequence[int], int]],
    loss_of: Callable[[Any], StepLoss],
) -> Measured:
    """Time optimiser steps; `steps` holds each step's row lengths and number of supervised tokens."""

    def run() -> Iterator[Unit]:
        starts: list[float] = []
        with adapted(attach(bench.loaded.model, recipe.lora, SEED)) as wrapped:
            adapter, loss = trained_weights(wrapped), loss_of(wrapped)

            def timed_loss(step: int) -> Any:
                wait(bench.loaded.device)
                starts.append(time.perf_counter())
                return loss(step)

            with tempfile.TemporaryDirectory() as folder:
                train(
                    wrapped, timed_loss, Path(folder), bench.loaded.device, recipe=recipe, steps=len(steps), seed=SEED
                )
        for number in range(WARMUP, len(steps) - 1):
            lengths, supervised = steps[number]
            flops = bench.cost.training(lengths, supervised, adapter)
            yield Unit(sum(lengths), starts[number + 1] - starts[number], flops)

    return bench.measured(part, rows, run)


# --- completions of one forced length by flatprobe's own engine


def sampling(bench: Bench) -> Iterator[Measured]:
    """Without an adapter, as before the coupling."""
    for rows in bench.options.rows:
        yield _sampled(bench, "sampling", rows, None, 0)


def sampling_adapted(bench: Bench) -> Iterator[Measured]:
    """With the coupling's adapter beside the weights, as in the leakage stages."""
    with tempfile.TemporaryDirectory() as name:
        with adapted(attach(bench.loaded.model, bench.coupling.lora, 0)) as wrapped:
            adapter = trained_weights(wrapped)
            _save(wrapped, Path(name))
        for rows in bench.options.rows:
            yield _sampled(bench, "sampling + adapter", rows, Path(name), adapter)


def _save(wrapped: Any, folder: Path) -> None:
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(UPDATE)
    wrapped.save_pretrained(folder)


def _sampled(bench: Bench, part: str, rows: int, adapter: Path | None, weights: int) -> Measured:
    """As many completions as rows, all of one length, so that all rows are busy in every step."""
    study, new = bench.study.study, bench.options.answer
    questions = take(bench.study.questions["evaluation"], study.questions.evaluation)
    prompts = prompts_of(bench.study.personas(), questions)
    requests = [CompletionRequest(p, index) for p in prompts for index in range(study.leakage.samples)][:rows]
    lengths = [len(bench.loaded.conversations.encode_prompt(request.prompt)) for request in requests]
    flops, moved = bench.cost.decoding(lengths, new, weights)
    engine = TransformersEngine(bench.loaded, rows)
    engine.ends = frozenset()
    settings = SamplingSettings(new, study.leakage.temperature, study.leakage.top_p, "benchmark")

    def draw(settings: SamplingSettings) -> int:
        return sum(len(completion.tokens) for _, completion in engine.stream(requests, settings))

    def once() -> Unit:
        seconds = bench.timed(lambda: draw(settings))
        return Unit(len(requests) * new, seconds, flops, moved)

    def run() -> Iterator[Unit]:
        engine.use(adapter)
        try:
            draw(replace(settings, max_new_tokens=SHORT))
            yield from bench.repeated(once)
        finally:
            engine.close()

    measured = bench.measured(part, rows, run)
    if halved := engine.facts()["out_of_memory_at_rows"]:
        failure = f"out of memory at {halved[0]} rows; the engine continued with {engine.rows}"
        return replace(measured, units=(), failed=failure)
    return measured


PARTS: dict[str, Callable[[Bench], Iterator[Measured]]] = {
    "geometry": geometry,
    "coupling": coupling,
    "finetune": finetune,
    "sampling": sampling,
    "sampling-adapter": sampling_adapted,
}


if __name__ == "__main__":
    main()
