"""Decode many requests together: each has a row, which the next request takes when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flatprobe.generation.engine import FinishReason, SamplingSettings
from flatprobe.generation.stopping import StopText
from flatprobe.generation.transformers_engine.prompts import PromptCache
from flatprobe.generation.transformers_engine.slots import Slots
from flatprobe.generation.transformers_engine.token_steps import TokenSteps

SLACK = 16  # rows are refilled, or closed up, once one in this many has ended


@dataclass(frozen=True)
class EndedRequest:
    """A request's tokens, without its end token, and why it ended."""

    request: int
    tokens: list[int]
    reason: FinishReason


class Decoding:
    """The requests being decoded. They occupy the first `live` rows of the slots and of the arrays here.

    Args:
        prompts: supplies requests with their prompts' keys and values.
        last_tokens: the last token of each request's prompt.
        seeds: of each request. It draws one number per token from its own stream, so its tokens do not depend on the
            rest of the batch.
        rows: the most requests to decode together.
        ends: tokens that end an answer.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptCache,
        last_tokens: Sequence[int],
        seeds: Sequence[int],
        settings: SamplingSettings,
        rows: int,
        ends: frozenset[int],
        stop: StopText | None,
    ) -> None:
        self.prompts, self.last_tokens, self.seeds = prompts, last_tokens, seeds
        self.limit, self.ends, self.stop = settings.max_new_tokens, sorted(ends), stop
        self.slots = Slots(model, rows, 1)
        self.steps = TokenSteps(self.slots, settings)
        self.live = 0
        self.requests, self.newest, self.counts = np.zeros((3, rows), dtype=np.int64)
        self.tokens = np.zeros((rows, self.limit), dtype=np.int64)
        self.has_ended = np.zeros(rows, dtype=bool)

    def run(self) -> Iterator[EndedRequest]:
        """All requests as they end."""
        self.live = self._fill(list(range(self.slots.rows)))
        while self.live:
            yield from self._step()
            ended = np.flatnonzero(self.has_ended[: self.live]).tolist()
            if len(ended) * SLACK >= self.live:
                self._replace(ended)

    def _step(self) -> list[EndedRequest]:
        """Draw one more token for every row; returns the requests that ended with it."""
        n = self.live
        # Rows that have ended draw again from where they stopped; the result is ignored.
        drawn = self.steps.next(self.newest[:n], np.minimum(self.counts[:n], self.limit - 1))
        is_end = np.isin(drawn, self.ends)
        going = np.flatnonzero(~self.has_ended[:n] & ~is_end)
        self.tokens[going, self.counts[going]] = self.newest[going] = drawn[going]
        self.counts[going] += 1
        reasons: dict[int, FinishReason] = dict.fromkeys(np.flatnonzero(~self.has_ended[:n] & is_end).tolist(), "stop")
        reasons |= dict.fromkeys(going[self.counts[going] == self.limit].tolist(), "length")
        reasons |= dict.fromkeys(filter(self._has_stop_text, going.tolist()), "marker")
        self.has_ended[list(reasons)] = True
        self.slots.lengths[:n][self.has_ended[:n]] = 0  # an empty row needs no columns
        return [
            EndedRequest(int(self.requests[row]), self.tokens[row, : self.counts[row]].tolist(), reason)
            for row, reason in reasons.items()
        ]

    def _has_stop_text(self, row: int) -> bool:
        """Whether the newest token completes the text to stop at."""
        if self.stop is None:
            return False
        count = self.counts[row]
        first = max(0, count - 1 - self.stop.overlap)
        return self.stop.end(self.tokens[row, first:count].tolist(), 1) is not None

    def _replace(self, ended: list[int]) -> None:
        """Give ended rows to waiting requests, and move live rows into the rows that stay empty."""
        empty = set(ended[self._fill(ended) :])
        live = self.live - len(empty)
        sources = [row for row in range(live, self.live) if row not in empty]
        targets = sorted(row for row in empty if row < live)
        self.slots.copy_from(self.slots, sources, targets)
        arrays = (self.requests, self.newest, self.counts, self.tokens, self.has_ended)
        for array in arrays:
            array[targets] = array[sources]
        self.steps.uniforms[targets] = self.steps.uniforms[sources]
        self.live = live

    def _fill(self, rows: list[int]) -> int:
        """Give rows to waiting requests; returns how many rows were filled."""
        requests = self.prompts.fill(self.slots, rows)
        if requests:
            rows = rows[: len(requests)]
            self.requests[rows] = requests
            self.newest[rows] = [self.last_tokens[request] for request in requests]
            self.counts[rows], self.has_ended[rows] = 0, False
            uniforms = np.stack([self._uniforms(request) for request in requests])
            self.steps.uniforms[rows] = torch.from_numpy(uniforms).to(self.slots.device)
        return len(requests)

    def _uniforms(self, request: int) -> NDArray[np.float32]:
        """One number in [0, 1) for each token of a request."""
        return np.random.default_rng(self.seeds[request]).random(self.limit, dtype=np.float32)
