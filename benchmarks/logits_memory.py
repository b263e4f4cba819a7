"""Memory of the logits of one coupling step at Qwen2.5-7B's shape: of supervised tokens only, or of all tokens.

Measured on the head alone, forward and backward. `training.py` starts one process per way, with the way, its tokens
and the device:

    python benchmarks/logits_memory.py supervised 112 cpu
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
"""16 examples, each with the tokens of separator and marker and the end of turn."""
HIDDEN = {"cpu": 256, "cuda": 3584}
"""The logits do not depend on it. The head's weights do, and both ways hold them."""
MEASURED_TOKENS = {"cpu": 512, "cuda": TOKENS}
"""Tokens at which all logits are measured; the result is scaled up to the shape."""
GIGA, KILOBYTE = 1e9, 1024


@dataclass(frozen=True)
class Row:
    """One way of computing the logits."""

    way: str
    formula_bytes: float
    """Largest number of float32 logits held at once, at the shape."""
    measured_bytes: float
    """Peak allocation of head and loss, forward and backward, at the shape."""
    measured_tokens: int
    """Tokens of the measurement; fewer than the shape's are scaled up."""


def measured(device: str) -> Iterator[Row]:
    for title, way, full, tokens in (
        ("flatprobe, no anchor", "supervised", SUPERVISED, SUPERVISED),
        ("all logits", "all", TOKENS, MEASURED_TOKENS[device]),
    ):
        command = [sys.executable, __file__, way, str(tokens), device]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        size = json.loads(process.stdout.strip().splitlines()[-1])
        yield Row(title, 4.0 * full * VOCABULARY, size * full / tokens, tokens)


def show(rows: Sequence[Row]) -> None:
    table = Table(
        "logits at Qwen2.5-7B's shape", "float32 logits, GB", "measured peak, GB", "of all logits", "measured at"
    )
    whole = rows[-1]
    for row in rows:
        table.add_row(
            row.way,
            f"{row.formula_bytes / GIGA:.3f}",
            f"{row.measured_bytes / GIGA:.3f}",
            f"{row.measured_bytes / whole.measured_bytes:.2%}",
            f"{row.measured_tokens:,} tokens",
        )
    console().print(table)
    say(f"Vocabulary {VOCABULARY:,}, 16 rows of 1,024 tokens, {SUPERVISED} of them with a loss.")


class _Head(torch.nn.Module):
    """The part of a model that `token_log_probabilities` reads."""

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
    torch.autograd.backward(_loss(way, model, warm, label[:2]))
    states = torch.randn(tokens, hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    before = _peak(device)
    torch.autograd.backward(_loss(way, model, states, label))
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
