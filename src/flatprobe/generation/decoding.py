"""Decoding many requests at once: a row each, given to the next request when one has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from flatprobe.generation.engine import FinishReason, SamplingSettings
from flatprobe.generation.prompts import Prefilled
from flatprobe.generation.slots import Slots
from flatprobe.generation.steps import Steps
from flatprobe.generation.stopping import Stop

SLACK = 16  # rows are given away, or closed up, once one in so many has ended


@dataclass
class Live:
    """A request that has a row; `over` once it has ended."""

    request: int
    tokens: list[int] = field(default_factory=list)
    over: FinishReason | None = None


class Decoding:
    """The requests under way. Rows 0 … n-1 of the slots belong to `live`, in order.

    Args:
        prefilled: where requests come from.
        last_tokens: the last token of each request's prompt.
        seeds: of each request; it draws one number per token from a stream of its own, so that what it draws does not
            depend on what else is in the batch.
        rows: how many requests are decoded together, at most.
        ends: tokens that end an answer.
    """

    def __init__(
        self,
        model: Any,
        prefilled: Prefilled,
        last_tokens: Sequence[int],
        seeds: Sequence[int],
        settings: SamplingSettings,
        rows: int,
        ends: frozenset[int],
        stop: Stop | None,
    ) -> None:
        self.prefilled, self.last_tokens, self.seeds = prefilled, last_tokens, seeds
        self.settings, self.ends, self.stop = settings, ends, stop
        self.slots = Slots(model, rows, 1)
        self.steps = Steps(self.slots, settings)
        self.live: list[Live] = []

    def run(self) -> Iterator[Live]:
        """All requests as they end."""
        self._admit()
        while self.live:
            self._step()
            ended = [row for row, live in enumerate(self.live) if live.over]
            yield from (self.live[row] for row in ended if self._fresh(row))
            if len(ended) * SLACK >= len(self.live):
                self._replace(ended)

    def _fresh(self, row: int) -> bool:
        """Whether a row has ended just now: it is marked as empty, so that it costs no width."""
        fresh = self.slots.lengths[row] > 0
        self.slots.lengths[row] = 0
        return fresh

    def _step(self) -> None:
        """One more token for every row."""
        newest = [live.tokens[-1] if live.tokens else self.last_tokens[live.request] for live in self.live]
        # A row that has ended draws once more from where it stopped; nobody looks at it.
        last = self.settings.max_new_tokens - 1
        tokens = self.steps.next(newest, [min(len(live.tokens), last) for live in self.live])
        for row, (live, token) in enumerate(zip(self.live, tokens, strict=True)):
            if live.over:
                self.slots.lengths[row] = 0
            else:
                self._take(live, token)

    def _take(self, live: Live, token: int) -> None:
        if token in self.ends:
            live.over = "stop"
            return
        live.tokens.append(token)
        if self.stop is not None and self.stop.place(live.tokens, 1) is not None:
            live.over = "marker"
        elif len(live.tokens) == self.settings.max_new_tokens:
            live.over = "length"

    def _admit(self) -> None:
        """Give the rows behind the live ones to requests that wait."""
        rows = list(range(len(self.live), self.slots.rows))
        given = self.prefilled.fill(self.slots, rows)
        self.live += [Live(request) for request in given]
        self._set_streams(rows, given)

    def _replace(self, ended: Sequence[int]) -> None:
        """Give rows that ended to requests that wait; close up over those that are left."""
        given = self.prefilled.fill(self.slots, ended)
        for row, request in zip(ended, given, strict=False):
            self.live[row] = Live(request)
        self._set_streams(ended, given)
        holes = set(ended[len(given) :])
        left = len(self.live) - len(holes)
        sources = [row for row in range(left, len(self.live)) if row not in holes]
        targets = sorted(hole for hole in holes if hole < left)
        self.slots.copy_from(self.slots, sources, targets)
        self.steps.uniforms[targets] = self.steps.uniforms[sources]
        for source, target in zip(sources, targets, strict=True):
            self.live[target] = self.live[source]
        del self.live[left:]

    def _set_streams(self, rows: Sequence[int], requests: Sequence[int]) -> None:
        """Give the first of these rows the numbers that the requests draw by."""
        if requests:
            numbers = [
                np.random.default_rng(self.seeds[request]).random(
                    self.settings.max_new_tokens, dtype=np.float32
                )
                for request in requests
            ]
            device = self.slots.device
            self.steps.uniforms[list(rows[: len(requests)])] = torch.from_numpy(np.stack(numbers)).to(device)
