"""What a device can do at most, what a forward pass needs at least, and the memory in use."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatprobe.activations.packing import Pack
from flatprobe.activations.positions import ProbedRow
from flatprobe.activations.read import group_passes, plan_packs
from flatprobe.activations.record import decoder_blocks
from flatprobe.models.load import Loaded

SIDE = {"cpu": 2048, "cuda": 8192}
COPIED = {"cpu": 2**27, "cuda": 2**31}  # bytes: far more than caches hold
REPEATS = 10
RESET_PEAK = "5"  # written to Linux's clear_refs, this resets the process's peak memory


@dataclass(frozen=True)
class Work:
    """The least that a reading of states needs."""

    flops: float
    """Multiplications and additions: 2 per weight and token, 4 per channel and pair of tokens that attend."""
    moved: float
    """Bytes: weights once per forward pass, and each block's states in and out."""


@dataclass(frozen=True)
class Device:
    """Measured ceilings of a device."""

    flops: float
    """Per second, of a square matrix product in the model's precision."""
    moved: float
    """Bytes per second, read and written, of a copy."""

    def seconds(self, work: Work) -> float:
        """The least time for the work, if arithmetic and memory run at their best at the same time."""
        return max(work.flops / self.flops, work.moved / self.moved)


def planned_work(loaded: Loaded, rows: Sequence[ProbedRow], batch: int, blocks: int) -> Work:
    """The work of flatprobe's reading of these rows in the first `blocks` blocks."""
    packs = plan_packs(loaded, rows, batch)
    return work_of(loaded.model, packs, sum(1 for _ in group_passes(packs, batch)), blocks)


def work_of(model: Any, packs: Sequence[Pack], passes: int, blocks: int) -> Work:
    """The work of running packs through the first `blocks` blocks in so many forward passes."""
    decoder = model.get_decoder()
    block = decoder_blocks(decoder)[0]
    weights = sum(parameter.numel() for parameter in block.parameters())
    hidden, size = decoder.config.hidden_size, next(block.parameters()).element_size()
    tokens = sum(len(pack.tokens) for pack in packs)
    pairs = sum(int((pack.positions + 1).sum()) for pack in packs)  # a token attends to its row up to itself
    return Work(
        blocks * (2.0 * weights * tokens + 4.0 * hidden * pairs),
        blocks * (weights * size * passes + 2.0 * hidden * size * tokens),
    )


def measured_device(device: torch.device, dtype: torch.dtype) -> Device:
    """The best of several matrix products and copies of random data."""
    side = SIDE[device.type]
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    source = torch.empty(COPIED[device.type], dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return Device(
        2.0 * side**3 / _best(lambda: left @ right, device),
        2.0 * source.numel() / _best(lambda: target.copy_(source), device),
    )


def _best(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest call."""
    seconds = []
    for _ in range(REPEATS):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return float(np.min(seconds))


def wait(device: torch.device) -> None:
    """Until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device, *, peak: bool = False) -> float:
    """Bytes in use now; with `peak`, the most since the last call without it.

    On a GPU: allocated by torch. Otherwise: resident memory of this process.
    """
    if device.type == "cuda":
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():  # not Linux: the peak since the start of the process
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    if not peak:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    name = "VmHWM:" if peak else "VmRSS:"
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return float(line.split()[1]) * 1024
