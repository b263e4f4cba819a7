"""Other ways to the same states: what `benchmarks/geometry.py` holds flatprobe against.

Both ask the library for all hidden states and pick from them, one prompt at a time or in padded batches. They return
states (N rows, P positions, L layers, D hidden) in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flatprobe.activations.positions import ProbedRow
from flatprobe.config.blocks import Position

Array = NDArray[np.float32]


def hidden_states(
    model: Any,
    rows: Sequence[ProbedRow],
    layers: Sequence[int],
    positions: Sequence[Position],
    *,
    batch: int,
    head: bool = True,
) -> Array:
    """`output_hidden_states=True`, sorted by length and padded on the right; with the head, as a model is called.

    The library returns the last block's states after the final norm, so those are of another kind than flatprobe's.
    """
    called = model if head else model.get_decoder()
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].tokens))
    found: list[Array] = [np.empty(0, np.float32)] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            width = max(len(rows[number].tokens) for number in chosen)
            ids = torch.zeros((len(chosen), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, number in enumerate(chosen):
                length = len(rows[number].tokens)
                ids[line, :length], mask[line, :length] = torch.tensor(rows[number].tokens), 1
            output = called(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), output_hidden_states=True,
                use_cache=False,
            )  # fmt: skip
            for line, number in enumerate(chosen):
                found[number] = _picked(output.hidden_states, line, rows[number], layers, positions)
    return np.stack(found)


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
