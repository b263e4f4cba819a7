"""What one process of `benchmarks/geometry.py` is asked to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WAYS = ("one prompt at a time", "batched", "batched, without the head", "flatprobe")
SWEEP = {
    "flatprobe: last layer, 1 position": (1, 1),
    "flatprobe: last layer, 6 positions": (1, 6),
    "flatprobe: 6 layers up to the last": (6, 6),
    "flatprobe: all layers": (None, 6),
}
"""How many layers, always with the last one (None: all), and how many positions."""


@dataclass(frozen=True)
class Task:
    """One way of reading states; the fields are the options of the script."""

    way: str
    model: str | None
    shape: str | None
    device: str
    dtype: str
    personas: int
    questions: int
    answer: int
    layers: Sequence[int]
    batch: int
    repeats: int
