"""The geometry pass: states of all personas on all questions behind given responses."""

from __future__ import annotations

from collections.abc import Iterator

from bench import Bench
from bound import planned_work
from results import Measured, Unit

from flatprobe.activations.positions import probed_row
from flatprobe.activations.read import read_states
from flatprobe.generation.sample import prompts_of
from flatprobe.study.questions import take


def geometry(bench: Bench) -> Iterator[Measured]:
    """Own responses under the registered panel, at the registered layers and positions."""
    study, loaded = bench.study.study, bench.loaded
    questions = take(bench.study.questions["evaluation"], study.questions.evaluation)
    prompts = prompts_of(
        bench.study.personas()[: bench.options.personas], questions[: bench.options.questions]
    )
    rows = [probed_row(loaded.conversations, p, bench.texts.answer(bench.options.answer)) for p in prompts]
    layers = [layer for layer in study.geometry.layers if layer < bench.size.blocks]
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
