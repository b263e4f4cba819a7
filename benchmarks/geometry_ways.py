"""One way of reading states, timed in this process: `geometry_ways.py TASK RESULT` (started by `geometry.py`).

The other ways ask the library for all hidden states and pick from them, one prompt at a time or in padded batches.
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
from numpy.typing import NDArray

from device import measured_device, memory, planned_work
from flatprobe.activations.positions import ProbedRow
from flatprobe.activations.read import read_states
from flatprobe.config.blocks import Position
from flatprobe.models.embedded import converted_folder
from flatprobe.models.load import Loaded
from geometry import SWEEP, WAYS, Measured, Task
from shapes import Size, load_real, load_shape, random_rows, real_rows

Array = NDArray[np.float32]
POSITIONS: tuple[Position, ...] = get_args(Position)


def main() -> None:
    """A short warm-up, one run for the memory, then the timed runs."""
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
    states, seconds, cpu_seconds = way.run(rows), [], []
    peak = memory(device, peak=True)
    for _ in range(task.repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        way.run(rows)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    tokens = sum(len(row.tokens) for row in rows)
    bound = _bound(task, loaded, rows, max(way.layers) + 1) if way.is_flatprobe else {}
    Measured(
        states=states,
        seconds=float(np.median(seconds)),
        cpu_seconds=float(np.median(cpu_seconds)),
        rise=peak - before,
        peak=peak,
        tokens=tokens,
        computed=way.computed or tokens,
        threads=torch.get_num_threads(),
        **bound,
    ).write(result)


class _Way:
    """One way of reading states, with its layers and positions."""

    def __init__(self, task: Task, loaded: Loaded) -> None:
        self.task, self.loaded = task, loaded
        self.is_flatprobe = task.way not in WAYS or task.way == WAYS[-1]
        depth = loaded.model.config.num_hidden_layers
        self.layers, self.positions = [layer for layer in task.layers if layer < depth], POSITIONS
        if task.way in SWEEP:
            layers, positions = SWEEP[task.way]
            self.layers = np.linspace(depth - 1, 0, layers or depth).astype(int).tolist()
            self.positions = POSITIONS[:positions]
        self.computed = 0

    def run(self, rows: Sequence[ProbedRow]) -> Array:
        """States (N rows, P positions, L layers, D hidden) in float32."""
        if not self.is_flatprobe:
            batch = 1 if self.task.way == WAYS[0] else self.task.batch
            head = self.task.way != WAYS[2]
            return hidden_states(self.loaded.model, rows, self.layers, self.positions, batch=batch, head=head)
        reading = read_states(self.loaded, rows, self.layers, self.positions, batch=self.task.batch)
        self.computed = reading.computed
        return np.stack([reading.states[position] for position in self.positions], axis=1)


def hidden_states(
    model: Any,
    rows: Sequence[ProbedRow],
    layers: Sequence[int],
    positions: Sequence[Position],
    *,
    batch: int,
    head: bool = True,
) -> Array:
    """`output_hidden_states=True`, sorted by length and padded on the right.

    The library returns the last block's states after the final norm, flatprobe before it.
    """
    called = model if head else model.get_decoder()
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].tokens))
    states: list[Array] = [np.empty(0, np.float32)] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            width = max(len(rows[number].tokens) for number in numbers)
            ids = torch.zeros((len(numbers), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, number in enumerate(numbers):
                length = len(rows[number].tokens)
                ids[line, :length], mask[line, :length] = torch.tensor(rows[number].tokens), 1
            output = called(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                output_hidden_states=True,
                use_cache=False,
            )
            for line, number in enumerate(numbers):
                states[number] = _picked(output.hidden_states, line, rows[number], layers, positions)
    return np.stack(states)


def _picked(
    states: Sequence[Any], line: int, row: ProbedRow, layers: Sequence[int], positions: Sequence[Position]
) -> Array:
    """(P, L, D) of one row of a batch; `states[layer + 1]` is (B, T, D)."""
    ranges = [row.indices(position) for position in positions]
    picked = [
        torch.stack([states[layer + 1][line, where.start : where.stop].float().mean(0) for layer in layers])
        for where in ranges
    ]
    array: Array = torch.stack(picked).cpu().numpy()
    return array


def _bound(task: Task, loaded: Loaded, rows: Sequence[ProbedRow], blocks: int) -> dict[str, float]:
    """What flatprobe must compute and move, and the device's least time for it."""
    work = planned_work(loaded, rows, task.batch, blocks)
    best = measured_device(loaded.device, getattr(torch, task.dtype))
    return {
        "flops": work.flops,
        "moved": work.moved,
        "best_flops": best.flops,
        "best_moved": best.moved,
        "least_seconds": best.seconds(work),
    }


if __name__ == "__main__":
    main()
