"""One way of reading states, timed and weighed here: `measure.py TASK RESULT` (see `benchmarks/geometry.py`).

In a folder of its own because the folder of a script is where Python looks first, and `benchmarks/statistics.py` is
not the `statistics` that libraries mean.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from bound import measured_device, planned_work
from measured import Measured, memory
from other_ways import hidden_states
from rows import Size, load_real, load_shape, random_rows, real_rows
from task import SWEEP, WAYS, Task

from flatprobe.activations.positions import ProbedRow
from flatprobe.activations.read import read_states
from flatprobe.models.embedded import converted_folder
from flatprobe.models.load import Loaded
from flatprobe.config.blocks import Position

POSITIONS: tuple[Position, ...] = get_args(Position)


def main() -> None:
    """A short warm-up, one run for the memory, then the clock."""
    task, result = Task(**json.loads(sys.argv[1])), Path(sys.argv[2])
    device, dtype = torch.device(task.device), getattr(torch, task.dtype)
    size = Size(task.personas, task.questions, task.answer)
    if task.shape:
        loaded, rows = load_shape(task.shape, device, dtype), random_rows(size)
    else:
        loaded = load_real(Path(task.model) if task.model else converted_folder(), device, dtype)
        rows = real_rows(loaded, size)
    way = _Way(task, loaded)
    way.run(rows[:2])
    before = memory(device)
    states, seconds, cpu = way.run(rows), [], []
    peak = memory(device, peak=True)
    for _ in range(task.repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        way.run(rows)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    tokens = sum(len(row.tokens) for row in rows)
    Measured(
        states=states, seconds=float(np.median(seconds)), cpu_seconds=float(np.median(cpu)),
        rise=peak - before, peak=peak, tokens=tokens, computed=way.computed or tokens,
        threads=torch.get_num_threads(),
        **(_bound(task, loaded, rows, max(way.layers) + 1) if way.ours else {}),
    ).write(result)  # fmt: skip


class _Way:
    """One way of reading states, with its layers and positions."""

    def __init__(self, task: Task, loaded: Loaded) -> None:
        self.task, self.loaded = task, loaded
        self.ours = task.way not in WAYS or task.way == WAYS[-1]
        depth = loaded.model.config.num_hidden_layers
        self.layers, self.positions = [layer for layer in task.layers if layer < depth], POSITIONS
        if task.way in SWEEP:
            layers, positions = SWEEP[task.way]
            self.layers = np.linspace(depth - 1, 0, layers or depth).astype(int).tolist()
            self.positions = POSITIONS[:positions]
        self.computed = 0

    def run(self, rows: Sequence[ProbedRow]) -> Any:
        """States (N, P, L, D) of the rows."""
        if not self.ours:
            batch = 1 if self.task.way == WAYS[0] else self.task.batch
            head = self.task.way != WAYS[2]
            return hidden_states(self.loaded.model, rows, self.layers, self.positions, batch=batch, head=head)
        reading = read_states(self.loaded, rows, self.layers, self.positions, batch=self.task.batch)
        self.computed = reading.computed
        return np.stack([reading.states[position] for position in self.positions], axis=1)


def _bound(task: Task, loaded: Loaded, rows: Sequence[ProbedRow], blocks: int) -> dict[str, float]:
    """What flatprobe must compute and move, and the device's least time for it."""
    work = planned_work(loaded, rows, task.batch, blocks)
    best = measured_device(loaded.device, getattr(torch, task.dtype))
    return {
        "flops": work.flops, "moved": work.moved, "best_flops": best.flops, "best_moved": best.moved,
        "least_seconds": best.seconds(work),
    }  # fmt: skip


if __name__ == "__main__":
    main()
