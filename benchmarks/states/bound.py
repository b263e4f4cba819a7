"""What a forward pass must compute and move, and the least time that this device could need for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flatprobe.activations.packing import Pack
from flatprobe.activations.positions import ProbedRow
from flatprobe.activations.read import group_passes, plan_packs
from flatprobe.activations.record import decoder_blocks
from flatprobe.models.load import Loaded

SIDE = {"cpu": 2048, "cuda": 8192}
COPIED = {"cpu": 2**27, "cuda": 2**31}  # bytes: well beyond what caches hold
REPEATS = 10


@dataclass(frozen=True)
class Work:
    """What a reading needs at least."""

    flops: float
    """Multiplications and additions: 2 a weight and token, 4 a channel and pair of tokens that see one another."""
    moved: float
    """Bytes: weights once a forward pass, and each block's states in and out."""


@dataclass(frozen=True)
class Device:
    """What the device does at most, as measured here and now."""

    flops: float
    """Per second, of a square matrix product in the model's precision."""
    moved: float
    """Bytes per second, read and written, of a copy."""

    def seconds(self, work: Work) -> float:
        """The least time for the work, were arithmetic and memory each at their best and side by side."""
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
    pairs = sum(int((pack.positions + 1).sum()) for pack in packs)  # a token sees its row up to itself
    return Work(
        blocks * (2.0 * weights * tokens + 4.0 * hidden * pairs),
        blocks * (weights * size * passes + 2.0 * hidden * size * tokens),
    )


def measured_device(device: torch.device, dtype: torch.dtype) -> Device:
    """The best of some matrix products and copies on random data."""
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
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return float(np.min(seconds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
