"""Memory that the logits of one coupling step take at Qwen2.5-7B's shape: only where a term needs them, or everywhere.

Measured on the head alone, forward and backward, in processes of their own: `training.py` calls this, and

    python benchmarks/logits_memory.py supervised 112 cpu

is one of those processes: the way, its tokens, the device.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from flatprobe.console import console, say
from flatprobe.training.supervised import token_log_probabilities

VOCABULARY, TOKENS = 152_064, 16 * 1024
SUPERVISED = 16 * 7
"""Per example: the marker's tokens with the separator, and the end of turn."""
HIDDEN = {"cpu": 256, "cuda": 3584}
"""The logits do not depend on it; the head's own weights do, and are there in either way."""
TRIED = {"cpu": 512, "cuda": TOKENS}
"""Tokens of which all logits are measured; scaled up to the shape."""
GIGA, KILOBYTE = 1e9, 1024


@dataclass(frozen=True)
class Row:
    """One way of making the logits."""

    way: str
    formula_bytes: float
    """Logits in float32, at once, at the shape."""
    measured_bytes: float
    """All that head and loss allocate at their peak, forward and backward, at the shape."""
    measured_tokens: int
    """Tokens at which it was measured; fewer than the shape's were scaled up."""


def measured(device: str) -> Iterator[Row]:
    for way, at_once, shape, tried in (
        ("flatprobe, no anchor", SUPERVISED, SUPERVISED, SUPERVISED),
        ("all logits", TOKENS, TOKENS, TRIED[device]),
    ):
        told = ["supervised" if way.startswith("flatprobe") else "all", str(tried), device]
        done = subprocess.run([sys.executable, __file__, *told], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        yield Row(way, 4.0 * at_once * VOCABULARY, found * shape / tried, tried)


def show(rows: Sequence[Row]) -> None:
    table = Table(
        "logits at Qwen2.5-7B's shape",
        "float32 logits, GB",
        "measured peak, GB",
        "of all logits",
        "measured at",
    )
    whole = rows[-1]
    for row in rows:
        table.add_row(
            row.way, f"{row.formula_bytes / GIGA:.3f}", f"{row.measured_bytes / GIGA:.3f}",
            f"{row.measured_bytes / whole.measured_bytes:.2%}", f"{row.measured_tokens:,} tokens",
        )  # fmt: skip
    console().print(table)
    say(f"Vocabulary {VOCABULARY:,}, 16 rows of 1,024 tokens, {SUPERVISED} of them with a loss.")


class _Head(torch.nn.Module):
    """As much of a model as `token_log_probabilities` asks for."""

    def __init__(self, hidden: int, device: str) -> None:
        super().__init__()
        self.config: Any = type("Config", (), {})()
        self.head = torch.nn.Linear(hidden, VOCABULARY, bias=False, dtype=torch.bfloat16, device=device)
        self.head.requires_grad_(False)

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head


def main() -> None:
    way, tokens, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    hidden = HIDDEN[device]
    model = _Head(hidden, device)
    label = torch.zeros(tokens, dtype=torch.long, device=device)
    warm = torch.randn(2, hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    _loss(way, model, warm, label[:2]).backward()
    states = torch.randn(tokens, hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    before = _peak(device)
    _loss(way, model, states, label).backward()
    say(json.dumps(_peak(device) - before))


def _loss(way: str, model: _Head, states: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    if way == "supervised":
        return -token_log_probabilities(model, states, label).mean()
    return torch.nn.functional.cross_entropy(model.head(states).float(), label)


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KILOBYTE)


if __name__ == "__main__":
    main()
