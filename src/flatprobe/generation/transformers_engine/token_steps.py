"""One decoding step: from the newest token of every row to the next. On a GPU it is recorded and replayed.

A step is hundreds of kernels, which a GPU often computes faster than Python launches them; a CUDA graph launches all
at once. Its shapes and addresses are fixed. So rows and columns are rounded up to a few sizes, each with its graph, and
the inputs of a step are copied to the address that all graphs read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatprobe.generation.engine import SamplingSettings
from flatprobe.generation.transformers_engine.drawing import draw
from flatprobe.generation.transformers_engine.slots import Slots

Integers = NDArray[np.int64]

GRAIN = 64  # columns are rounded up to multiples of this, or of an eighth of their power of two if larger


class TokenSteps:
    """Draws the next token of the slots' first rows.

    Attributes:
        uniforms: [rows, max_new_tokens], one number for each token to draw. Change it in place.
    """

    def __init__(self, slots: Slots, settings: SamplingSettings) -> None:
        self.slots, self.settings = slots, settings
        self.uniforms = torch.zeros(slots.rows, settings.max_new_tokens, device=slots.device)
        self.recordings = Recordings(self._draw, slots) if can_record(slots.device) else None

    def next(self, newest: Integers, counts: Integers) -> Integers:
        """Append each row's newest token [n] and draw the next, by column `counts` [n] of `uniforms`."""
        slots, n = self.slots, len(newest)
        state = torch.from_numpy(np.stack([newest, slots.lengths[:n], counts]))
        columns = int(slots.lengths[:n].max()) + 1
        if self.recordings is not None:
            tokens = self.recordings.run(state, columns)[:n]
        else:
            slots.reserve(columns)
            tokens = self._draw(state.to(slots.device))
        slots.lengths[:n] += 1
        drawn: Integers = tokens.cpu().numpy()
        return drawn

    def _draw(self, state: Tensor) -> Tensor:
        """Tokens [n] for newest tokens, lengths and counts [3, n]. Never waits for the device."""
        newest, lengths, counts = state
        logits = self.slots.append(newest.unsqueeze(1), lengths)
        uniform = self.uniforms[: len(newest)].gather(1, counts.unsqueeze(1)).squeeze(1)
        return draw(logits, uniform, self.settings.temperature, self.settings.top_p)


class Recordings:
    """Runs a step with the CUDA graph of its shape.

    The first step of a shape runs kernel by kernel, which also warms it up; the second is recorded. If recording fails,
    all steps run kernel by kernel, and standard error says so.

    Args:
        compute: from [3, n] to [n], on the device, without waiting for it. Extra rows at the end are ignored.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], slots: Slots) -> None:
        self.compute, self.slots = compute, slots
        self.state = torch.zeros(3, slots.rows, dtype=torch.long, device=slots.device)
        self.replays: dict[tuple[int, int], Callable[[], Tensor] | None] = {}
        self.columns, self.failed, self.pool = -1, False, None

    def run(self, state: Tensor, columns: int) -> Tensor:
        """The tokens of a step, at least n, for a state [3, n] on the host and rows of at most `columns` tokens."""
        n = state.shape[1]
        rows, columns = rounded_rows(n, self.slots.rows), rounded_columns(columns)
        self.slots.reserve(columns)
        if self.slots.columns != self.columns:  # keys and values have new addresses
            self.columns, self.pool = self.slots.columns, None
            self.replays.clear()
        self.state[:, :n] = state.to(self.state.device)
        self.state[:, n:rows] = 0
        shape = (rows, columns)
        if not self.failed and shape in self.replays and self.replays[shape] is None:
            self.replays[shape] = self._record(rows)
        replay = self.replays.setdefault(shape, None)
        return self.compute(self.state[:, :rows]) if replay is None else replay()

    def _record(self, rows: int) -> Callable[[], Tensor] | None:
        try:
            replay, self.pool = record(lambda: self.compute(self.state[:, :rows]), self.pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.failed = True
            cause = (str(error).splitlines() or ["no message"])[0]
            sys.stderr.write(
                f"a decoding step could not be recorded as a CUDA graph ({cause}); launching it kernel by kernel, "
                "which is slower\n"
            )
            return None
        return replay


def can_record(device: torch.device) -> bool:
    """Whether the device supports graphs."""
    return device.type == "cuda"


def record(compute: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], Tensor], Any]:
    """A function that repeats the computation into the same tensor, and a memory pool for graphs to share."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            result = compute()
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails at its end does not restore it

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay, graph.pool()


def rounded_rows(n: int, rows: int) -> int:
    """The smallest of `rows`, half of them, a quarter … that is at least n."""
    while rows // 2 >= n:
        rows //= 2
    return rows


def rounded_columns(columns: int) -> int:
    """Columns rounded up: by less than the grain, or by at most a quarter if that is more."""
    grain = max(GRAIN, (1 << columns.bit_length()) // 8)
    return -(-columns // grain) * grain
