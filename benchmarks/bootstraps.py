"""Time and memory of the bootstraps, side by side in one run.

    python benchmarks/bootstraps.py
    python benchmarks/bootstraps.py --personas 16 --resamples 100000 --json times.json

Geometry: the registered cosine contrast for 3 pairs of conditions (20 questions, 6 layers, joint question
resamples), by Gram matrices and by materialised centroids; then all measures with all their inference. Leakage:
the registered bootstrap of 7 x 20 cells. Slow ways run fewer resamples and are scaled up; the table shows how many.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import bootstrap_ways as ways
from flatprobe.console import console
from flatprobe.simulation.planted_states import planted_pair
from flatprobe.statistics.geometry.contrasts import GeometryOptions, gram_contrasts
from flatprobe.statistics.geometry.grams import PARTS, PairGrams, Part, pair_grams
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.statistics.geometry.values import measure_values
from flatprobe.statistics.leakage.cells import PairedCells
from flatprobe.statistics.leakage.estimators import contrast_cells
from flatprobe.statistics.leakage.resampling import cell_draws

QUESTIONS, LAYERS, SEED = 20, 6, 1
CONDITIONS = ("em_first", "base_first", "benign_first")
NAMED_PAIRS = [(CONDITIONS[treated], CONDITIONS[control]) for treated, control in ways.PAIRS]
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """One task done in one way."""

    task: str
    way: str
    run: int
    """Resamples."""
    seconds: float
    """Median of the repeats, for the task's number of resamples."""
    megabytes: float
    """Peak allocation of Python and numpy during one call, without its input."""
    agreement: float | None = None
    """Largest difference from flatprobe's draws with the same seed."""


def main() -> None:
    """Run everything and print one table."""
    options = _options()
    rows = []
    for personas in options.personas:
        rows += list(_geometry(personas, options))
    rows += list(_hidden_sizes(options))
    for resamples in (10_000, 100_000):
        rows += list(_leakage(resamples, options.repeats))
    _show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--personas", type=int, nargs="+", default=[11, 16], help="panel sizes, source included")
    parser.add_argument("--hidden", type=int, default=3584)
    parser.add_argument("--sweep", type=int, nargs="*", default=[896, 3584, 8192], help="further hidden sizes")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--direct-resamples", type=int, default=200, help="resamples of the direct ways")
    parser.add_argument("--scipy-resamples", type=int, default=20, help="resamples of scipy on states")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def planted(personas: int, hidden: int) -> dict[str, States]:
    """Three conditions with a contraction and some noise."""
    draw = partial(planted_pair, personas=personas, questions=QUESTIONS, layers=LAYERS, hidden=hidden)
    generator = np.random.default_rng(SEED)
    treated, control = draw(generator, contraction=0.8)
    benign, _ = draw(generator)
    return {
        name: replace(states, condition=name)
        for name, states in zip(CONDITIONS, (treated, control, benign), strict=True)
    }


def _grams(states: dict[str, States], parts: Sequence[Part] = PARTS) -> list[PairGrams]:
    personas = states[CONDITIONS[0]].personas
    return pair_grams(states, NAMED_PAIRS, personas[0], personas[1:], parts)


def _cosine_draws(grams: Sequence[PairGrams], resamples: int) -> np.ndarray[Any, Any]:
    values = measure_values(grams, resamples=resamples, seed=SEED, measures=["cosine_difference"])
    return np.stack([by_measure["cosine_difference"].draws_LR for by_measure in values])


def _everything(grams: Sequence[PairGrams], resamples: int) -> None:
    kind = StateKind("own", "last_response_token")
    options = GeometryOptions(kind=kind, pool="bystanders", resamples=resamples, seed=SEED, level=0.95)
    gram_contrasts(grams, options)


def _geometry(personas: int, options: argparse.Namespace) -> Iterator[Row]:
    """The registered cosine by every way, then all measures from states to estimates."""
    states, full = planted(personas, options.hidden), options.resamples
    h_CPQLD = np.stack([states[name].h_PQLD for name in CONDITIONS])
    measure = partial(_measured, repeats=options.repeats, full=full)
    direct, few = min(options.direct_resamples, full), min(options.scipy_resamples, full)
    stored = _grams(states)
    reference = _cosine_draws(stored, full)

    def against(draws: np.ndarray[Any, Any]) -> float:
        return float(np.abs(draws - reference[..., : draws.shape[-1]]).max())

    task = f"cosine, {personas} personas, {full:,} resamples, hidden size {options.hidden}"
    others: dict[str, tuple[Callable[[int], Any], int]] = {
        "centroids, numpy float64": (partial(_materialised, h_CPQLD, np.float64), direct),
        "centroids, numpy float32": (partial(_materialised, h_CPQLD, np.float32), direct),
        "scipy.stats.bootstrap on indices": (lambda run: ways.scipy_on_indices(h_CPQLD, run, SEED), direct),
        "scipy.stats.bootstrap on states": (lambda run: ways.scipy_on_states(h_CPQLD, run, SEED), few),
    }
    yield measure(task, "flatprobe", lambda run: _cosine_draws(_grams(states, ()), run), run=full, check=against)
    yield measure(task, "flatprobe, Gram matrices stored", lambda run: _cosine_draws(_fresh(stored), run), run=full)
    for way, (call, run) in others.items():
        yield measure(task, way, call, run=run, check=against)
    task = f"all measures, {personas} personas, {full:,} resamples, hidden size {options.hidden}"
    yield measure(task, "flatprobe", lambda run: _everything(_grams(states), run), run=full)


def _materialised(h_CPQLD: np.ndarray[Any, Any], dtype: Any, run: int) -> np.ndarray[Any, Any]:
    draws: np.ndarray[Any, Any] = ways.materialised(h_CPQLD, run, SEED, dtype)
    return draws


def _hidden_sizes(options: argparse.Namespace) -> Iterator[Row]:
    """All measures at several hidden sizes, in two steps: only the first depends on the size."""
    for hidden in options.sweep:
        states = planted(options.personas[0], hidden)
        stored, measure = _grams(states), partial(_measured, repeats=options.repeats, full=options.resamples)
        task = f"in two steps, {options.personas[0]} personas, {options.resamples:,} resamples, hidden size {hidden}"
        making, reading = partial(_making, states), partial(_reading, stored)
        yield measure(task, "Gram matrices", making, run=options.resamples)
        yield measure(task, "everything else", reading, run=options.resamples)


def _making(states: dict[str, States], run: int) -> None:
    _grams(states)


def _reading(stored: Sequence[PairGrams], run: int) -> None:
    _everything(_fresh(stored), run)


def _fresh(stored: Sequence[PairGrams]) -> list[PairGrams]:
    """Without the values that an earlier call derived from the matrices and cached."""
    sides = {id(side): replace(side) for pair in stored for side in (pair.treated, pair.control)}
    return [replace(pair, treated=sides[id(pair.treated)], control=sides[id(pair.control)]) for pair in stored]


def _leakage(resamples: int, repeats: int) -> Iterator[Row]:
    """The registered cell bootstrap of 7 personas x 20 questions x 10 completions."""
    generator = np.random.default_rng(SEED)
    treated, control = (generator.binomial(10, rate, size=7 * QUESTIONS) for rate in (0.45, 0.15))
    tens = np.full(7 * QUESTIONS, 10)
    names = (tuple(f"persona {index}" for index in range(7)), tuple(f"q{index:02d}" for index in range(QUESTIONS)))
    paired = PairedCells(*names, treated, tens, control, tens, 0)
    d_C = paired.differences
    reference = cell_draws(d_C[:, None], resamples, np.random.default_rng(SEED))[:, 0]
    task = f"leakage, 140 cells, {resamples:,} resamples"

    def flatprobe(run: int) -> None:
        contrast_cells(paired, resamples=run, seed=SEED, estimators=["cell_bootstrap"], level=0.95)

    def against(draws: np.ndarray[Any, Any]) -> float:
        return float(np.abs(draws - reference).max())

    measure = partial(_measured, repeats=repeats, full=resamples, run=resamples)
    yield measure(task, "flatprobe", flatprobe)
    yield measure(task, "index loop, numpy", lambda run: ways.index_loop(d_C, run, SEED), check=against)
    yield measure(task, "scipy.stats.bootstrap", lambda run: ways.scipy_on_cells(d_C, run, SEED), check=against)


def _measured(
    task: str,
    way: str,
    call: Callable[[int], Any],
    *,
    run: int,
    full: int,
    repeats: int,
    check: Callable[[Any], float] | None = None,
) -> Row:
    """Median seconds of `repeats` calls, then the memory of one more, which is not timed."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call(run)
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    result = call(run)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    agreement = None if check is None else check(result)
    return Row(task, way, run, float(np.median(seconds)) * full / run, peak / MEGABYTE, agreement)


def _show(rows: Sequence[Row]) -> None:
    table = Table("task", "way", "resamples run", "seconds", "times flatprobe", "peak MB", "agreement")
    first: dict[str, float] = {}
    for row in rows:
        new = row.task not in first
        base = first.setdefault(row.task, row.seconds)
        table.add_row(
            row.task if new else "",
            row.way,
            f"{row.run:,}",
            f"{row.seconds:.3g}",
            "" if new or row.task.startswith("in two steps") else f"{row.seconds / base:.3g}",
            f"{row.megabytes:.0f}",
            "" if row.agreement is None else f"{row.agreement:.1e}",
        )
    printer = console()
    printer.print(table)
    printer.print(
        f"{os.cpu_count()} cores. Seconds: median of the repeats, scaled up to the task's resamples. Peak: allocated "
        "during one call, without its input. Agreement: largest difference from flatprobe's draws with the same seed."
    )


if __name__ == "__main__":
    main()
