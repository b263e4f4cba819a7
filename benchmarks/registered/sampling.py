"""Completions of one forced length by flatprobe's own engine, with and without an adapter beside the weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import Bench, adapted, trained_weights
from results import Measured, Unit

from flatprobe.generation.engine import CompletionRequest, SamplingSettings
from flatprobe.generation.sample import prompts_of
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.study.questions import take
from flatprobe.training.lora import attach

UPDATE = 1e-4  # size of a trained adapter's entries, roughly; what they are costs no time
SHORT = 8  # tokens of the warm-up


def sampling(bench: Bench) -> Iterator[Measured]:
    """Without an adapter, as before the coupling."""
    for rows in bench.options.rows:
        yield _sampled(bench, "sampling", rows, None, 0)


def sampling_adapted(bench: Bench) -> Iterator[Measured]:
    """With the coupling's adapter, as in the leakage stages."""
    with tempfile.TemporaryDirectory() as name:
        with adapted(attach(bench.loaded.model, bench.study.study.coupling.lora, 0)) as wrapped:
            adapter = trained_weights(wrapped)
            _save(wrapped, Path(name))
        for rows in bench.options.rows:
            yield _sampled(bench, "sampling + adapter", rows, Path(name), adapter)


def _save(wrapped: Any, folder: Path) -> None:
    for parameter_name, parameter in wrapped.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.fill_(UPDATE)
    wrapped.save_pretrained(folder)


def _sampled(bench: Bench, part: str, rows: int, adapter: Path | None, weights: int) -> Measured:
    """As many completions as rows, all of one length, so that every step has all rows."""
    study, new = bench.study.study, bench.options.answer
    questions = take(bench.study.questions["evaluation"], study.questions.evaluation)
    prompts = prompts_of(bench.study.personas(), questions)
    requests = [CompletionRequest(p, index) for p in prompts for index in range(study.leakage.samples)][:rows]
    lengths = [len(bench.loaded.conversations.encode_prompt(request.prompt)) for request in requests]
    flops, moved = bench.size.decoding(lengths, new, weights)
    engine = TransformersEngine(bench.loaded, rows)
    engine.ends = frozenset()
    settings = SamplingSettings(new, study.leakage.temperature, study.leakage.top_p, "benchmark")

    def draw(some: SamplingSettings) -> int:
        return sum(len(completion.tokens) for _, completion in engine.stream(requests, some))

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

    found = bench.measured(part, rows, run)
    if halved := engine.facts()["out_of_memory_at_rows"]:
        return replace(
            found,
            units=(),
            failed=f"out of memory at {halved[0]} rows; the engine went on with {engine.rows}",
        )
    return found
