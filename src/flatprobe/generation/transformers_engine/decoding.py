"""Decoding many requests at once: a row each, given to the next request when one has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flatprobe.generation.engine import FinishReason, SamplingSettings
from flatprobe.generation.stopping import StopText
from flatprobe.generation.transformers_engine.prompts import Prefilled
from flatprobe.generation.transformers_engine.slots import Slots
from flatprobe.generation.transformers_engine.token_steps import TokenSteps

SLACK = 16  # rows are given away, or closed up, once one in so many has ended


@dataclass(frozen=True)
class Finished:
    """A request that has ended, and its tokens without the one that ended it."""

    request: int
    tokens: list[int]
    reason: FinishReason


class Decoding:
    """The requests under way: they have the first `live` rows of the slots, and of the arrays here.

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
        stop: StopText | None,
    ) -> None:
        self.prefilled, self.last_tokens, self.seeds = prefilled, last_tokens, seeds
        self.limit, self.ends, self.stop = settings.max_new_tokens, sorted(ends), stop
        self.slots = Slots(model, rows, 1)
        self.steps = TokenSteps(self.slots, settings)
        self.live = 0
        self.request, self.newest, self.count = np.zeros((3, rows), dtype=np.int64)
        self.tokens = np.zeros((rows, self.limit), dtype=np.int64)
        self.over = np.zeros(rows, dtype=bool)

    def run(self) -> Iterator[Finished]:
        """All requests as they end."""
        self._admit()
        while self.live:
            yield from self._step()
            ended = np.flatnonzero(self.over[: self.live]).tolist()
            if len(ended) * SLACK >= self.live:
                self._replace(ended)

    def _step(self) -> list[Finished]:
        """One more token for every row; those that have ended with it."""
        n = self.live
        # A row that has ended draws once more from where it stopped; nobody looks at it.
        drawn = self.steps.next(self.newest[:n], np.minimum(self.count[:n], self.limit - 1))
        ends = np.isin(drawn, self.ends)
        going = np.flatnonzero(~self.over[:n] & ~ends)
        self.tokens[going, self.count[going]] = self.newest[going] = drawn[going]
        self.count[going] += 1
        reasons: dict[int, FinishReason] = dict.fromkeys(
            np.flatnonzero(~self.over[:n] & ends).tolist(), "stop"
        )
        reasons |= dict.fromkeys(going[self.count[going] == self.limit].tolist(), "length")
        reasons |= dict.fromkeys(filter(self._has_marker, going.tolist()), "marker")
        self.over[list(reasons)] = True
        self.slots.lengths[:n][self.over[:n]] = 0  # an empty row costs no width
        return [
            Finished(int(self.request[row]), self.tokens[row, : self.count[row]].tolist(), reason)
            for row, reason in reasons.items()
        ]

    def _has_marker(self, row: int) -> bool:
        """Whether the newest token has completed the text to stop at."""
        if self.stop is None:
            return False
        end = self.count[row]
        return (
            self.stop.end(self.tokens[row, max(0, end - 1 - self.stop.overlap) : end].tolist(), 1) is not None
        )

    def _admit(self) -> None:
        """Give the rows behind the live ones to requests that wait."""
        rows = list(range(self.live, self.slots.rows))
        self.live += self._fill(rows)

    def _replace(self, ended: list[int]) -> None:
        """Give rows that ended to requests that wait; close up over those that are left."""
        holes = set(ended[self._fill(ended) :])
        left = self.live - len(holes)
        sources = [row for row in range(left, self.live) if row not in holes]
        targets = sorted(hole for hole in holes if hole < left)
        self.slots.copy_from(self.slots, sources, targets)
        by_row: list[Any] = [
            self.request,
            self.newest,
            self.count,
            self.tokens,
            self.over,
            self.steps.uniforms,
        ]
        for held in by_row:
            held[targets] = held[sources]
        self.live = left

    def _fill(self, rows: list[int]) -> int:
        """Give rows to requests that wait, as long as there are any; returns how many rows were given."""
        requests = self.prefilled.fill(self.slots, rows)
        if requests:
            rows = rows[: len(requests)]
            self.request[rows] = requests
            self.newest[rows] = [self.last_tokens[request] for request in requests]
            self.count[rows], self.over[rows] = 0, False
            numbers = [self._stream(request) for request in requests]
            self.steps.uniforms[rows] = torch.from_numpy(np.stack(numbers)).to(self.slots.device)
        return len(requests)

    def _stream(self, request: int) -> NDArray[np.float32]:
        """The numbers that a request draws by."""
        return np.random.default_rng(self.seeds[request]).random(self.limit, dtype=np.float32)
