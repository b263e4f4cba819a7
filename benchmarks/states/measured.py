"""What `benchmarks/geometry.py` measures of one way, how it gets from process to process, and the table of all."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from flatprobe.console import console

MEGABYTE = 1e6
RESET_PEAK = "5"  # what Linux's clear_refs takes to forget the peak of a process's memory


@dataclass(frozen=True)
class Measured:
    """One way, measured in its own process."""

    states: NDArray[np.float32]
    seconds: float
    """Median of the repeats, wall clock."""
    cpu_seconds: float
    """Median of the repeats, over all threads: what neighbours on the machine disturb less."""
    rise: float
    """Bytes: peak of one run above what the loaded model took."""
    peak: float
    """Bytes: that peak with the model and the libraries."""
    tokens: int
    """Tokens of all rows."""
    computed: int
    """Tokens that went through the blocks."""
    threads: int
    """That computed, on a CPU."""
    flops: float = 0.0
    moved: float = 0.0
    best_flops: float = 0.0
    best_moved: float = 0.0
    least_seconds: float = 0.0

    def write(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def read(cls, path: Path) -> Measured:
        with np.load(path) as stored:
            return cls(**{name: stored[name] if name == "states" else stored[name].item() for name in stored})

    def facts(self) -> dict[str, Any]:
        """All but the states."""
        return {name: value for name, value in asdict(self).items() if name != "states"}


def memory(device: Any, *, peak: bool = False) -> float:
    """Bytes in use now, from when on the peak is counted; or the peak since.

    `device` is a torch.device. On a GPU what the allocator has given out, else the resident set of this process.
    """
    if device.type == "cuda":
        import torch

        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():  # no Linux: the peak since the start of the process
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    if not peak:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    name = "VmHWM:" if peak else "VmRSS:"
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return float(line.split()[1]) * 1024


def show(found: Mapping[str, Measured], ways: Sequence[str]) -> None:
    """The ways against each other, flatprobe against layers and positions, and against the device."""
    table = Table(
        "way", "seconds", "CPU s", "times flatprobe", "tokens run", "rise MB", "peak MB", "agreement"
    )
    ours, plain = found.get("flatprobe"), found.get(ways[0]) or found.get(ways[1])
    for way, one in found.items():
        against = ours if way in ways else None
        table.add_row(
            way,
            f"{one.seconds:.2f}",
            f"{one.cpu_seconds:.1f}",
            "" if against is None else f"{one.seconds / against.seconds:.2f}",
            f"{one.computed:,}",
            f"{one.rise / MEGABYTE:.0f}",
            f"{one.peak / MEGABYTE:.0f}",
            "" if plain is None or plain is one or way not in ways else f"{_distance(one, plain):.1e}",
        )
    printer = console()
    printer.print(table)
    some = next(iter(found.values()))
    printer.print(
        f"{some.tokens:,} tokens, {some.threads} threads of {os.cpu_count()} cores. Seconds: median of the "
        "repeats. Rise: peak of one run above the loaded model. Agreement: largest distance of a state to that of the "
        "first way, relative to its norm."
    )
    if ours is not None:
        printer.print(
            f"flatprobe needs {ours.flops / 1e12:.2f} TFLOP and moves {ours.moved / 1e9:.1f} GB at least. This device "
            f"does {ours.best_flops / 1e12:.2f} TFLOP/s and {ours.best_moved / 1e9:.0f} GB/s at most (measured: a "
            f"matrix product, a copy), so no less than {ours.least_seconds:.2f} s: "
            f"{ours.least_seconds / ours.seconds:.0%} of the time taken."
        )


def _distance(one: Measured, other: Measured) -> float:
    distance = np.linalg.norm(one.states - other.states, axis=-1) / np.linalg.norm(other.states, axis=-1)
    return float(distance.max())
