"""One step of decoding: from the newest token of every row to the next. On a GPU, recorded and replayed.

A step is hundreds of kernels, and a GPU often computes them faster than Python launches them; a CUDA graph launches all
at once. It is fixed in shapes and addresses. So rows and columns are rounded up to a few sizes with a graph each, and
what changes from step to step is copied to where all graphs read it.
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

GRAIN = 64  # columns are rounded up to multiples of this, or of an eighth of their power of two where that is more


class TokenSteps:
    """Draws the next token of the slots' first rows.

    Attributes:
        uniforms: [rows, max_new_tokens], the numbers that each row's tokens are drawn by. To be changed in place.
    """

    def __init__(self, slots: Slots, settings: SamplingSettings) -> None:
        self.slots, self.settings = slots, settings
        self.uniforms = torch.zeros(slots.rows, settings.max_new_tokens, device=slots.device)
        self.recordings = Recordings(self._draw, slots) if can_record(slots.device) else None

    def next(self, newest: Integers, counts: Integers) -> Integers:
        """Append each row's newest token [n] and draw the one behind it; `counts` says which of its numbers is due."""
        slots, n = self.slots, len(newest)
        state = torch.from_numpy(np.stack([newest, slots.lengths[:n], counts]))
        reach = int(slots.lengths[:n].max()) + 1
        if self.recordings is not None:
            tokens = self.recordings.run(state, reach)[:n]
        else:
            slots.reserve(reach)
            tokens = self._draw(state.to(slots.device))
        slots.lengths[:n] += 1
        drawn: Integers = tokens.cpu().numpy()
        return drawn

    def _draw(self, state: Tensor) -> Tensor:
        """Tokens [n] for newest tokens, lengths and counts [3, n]; nothing here waits for the device."""
        newest, lengths, counts = state
        logits = self.slots.append(newest.unsqueeze(1), lengths)
        uniform = self.uniforms[: len(newest)].gather(1, counts.unsqueeze(1)).squeeze(1)
        return draw(logits, uniform, self.settings.temperature, self.settings.top_p)


class Recordings:
    """Runs a step by a CUDA graph of its shape.

    A shape that is new is run as it is, which also warms it up, and recorded when it is met again. Where that fails all
    steps are run as they are, and standard error says so.

    Args:
        compute: from [3, n] to [n], on the device, without waiting for it; what the last rows get does not matter.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], slots: Slots) -> None:
        self.compute, self.slots = compute, slots
        self.state = torch.zeros(3, slots.rows, dtype=torch.long, device=slots.device)
        self.replays: dict[tuple[int, int], Callable[[], Tensor] | None] = {}
        self.columns, self.failed, self.pool = -1, False, None

    def run(self, state: Tensor, reach: int) -> Tensor:
        """The step for [3, n] on the host and rows of at most `reach` tokens; at least n tokens."""
        n = state.shape[1]
        rows, columns = rounded_rows(n, self.slots.rows), rounded_columns(reach)
        self.slots.reserve(columns)
        if self.slots.columns != self.columns:  # keys and values lie elsewhere now
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
            first = (str(error).splitlines() or ["no message"])[0]
            sys.stderr.write(
                f"a step of decoding could not be recorded as a CUDA graph ({first}); steps are launched kernel by "
                "kernel, which is slower\n"
            )
            return None
        return replay


def can_record(device: torch.device) -> bool:
    """Whether the device has graphs."""
    return device.type == "cuda"


def record(compute: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], Tensor], Any]:
    """A function that computes the same again, into the same tensor; and the memory pool that graphs may share."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            result = compute()
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own stream behind

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay, graph.pool()


def rounded_rows(n: int, rows: int) -> int:
    """The smallest of rows, a half, a quarter … of them that is not less than n."""
    while rows // 2 >= n:
        rows //= 2
    return rows


def rounded_columns(reach: int) -> int:
    """At least `reach`, and at most a quarter more beyond the first multiples of the grain."""
    grain = max(GRAIN, (1 << reach.bit_length()) // 8)
    return -(-reach // grain) * grain
