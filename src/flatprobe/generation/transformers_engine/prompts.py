"""Prompts that wait for a row: what they share is run once, and each is run once for all its samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from flatprobe.generation.transformers_engine.slots import Slots

TOKENS = 8192  # of prompts in one forward pass, padding included


def shared_heads(rows: Sequence[Sequence[int]], groups: Sequence[Hashable]) -> list[int]:
    """For each row, how many first tokens it shares with all rows of its group; at least one token is left over."""
    heads: dict[Hashable, tuple[Sequence[int], int]] = {}
    for row, group in zip(rows, groups, strict=True):
        first, length = heads.get(group, (row, len(row) - 1))
        length = min(length, len(row) - 1)
        while length and first[:length] != row[:length]:
            length -= 1
        heads[group] = (first, length)
    return [heads[group][1] for group in groups]


class Prefilled:
    """Hands out the keys and values of prompts, all but their last tokens, in the order of the requests.

    Prompts of one group (a persona's) share a head, which is run once for the whole stream; the rest of a prompt is run
    when the first of its requests gets a row. A prompt's last token is left to the first step of decoding, which then
    needs no logits from here.

    Args:
        prompts: token ids, one row per distinct prompt.
        groups: what may share a head, one per prompt.
        requests: (prompt, request) in the order in which they are handed out, a prompt's in a row.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        groups: Sequence[Hashable],
        requests: Sequence[tuple[int, int]],
    ) -> None:
        self.model, self.prompts = model, prompts
        self.waiting = deque(requests)
        self.heads = shared_heads(prompts, groups)
        keys = [tuple(row[:head]) for row, head in zip(prompts, self.heads, strict=True)]
        unique = [key for key in dict.fromkeys(keys) if key]
        self.head_row = [unique.index(key) if key else None for key in keys]
        self.shared = Slots(model, max(1, len(unique)), max(map(len, unique), default=1))
        run(self.shared, unique)
        self.held = Slots(model, 1, 1)
        self.place: dict[int, int] = {}

    def fill(self, slots: Slots, rows: Sequence[int]) -> list[int]:
        """Give rows to the next requests; returns the requests, at most one per row."""
        given: list[int] = []
        while self.waiting and len(given) < len(rows):
            if self.waiting[0][0] not in self.place:
                self._run_next(len(rows) - len(given))
            batch: list[tuple[int, int]] = []
            while self.waiting and len(given) + len(batch) < len(rows) and self.waiting[0][0] in self.place:
                batch.append(self.waiting.popleft())
            targets = rows[len(given) : len(given) + len(batch)]
            slots.copy_from(self.held, [self.place[prompt] for prompt, _ in batch], targets)
            given += [request for _, request in batch]
        return given

    def _run_next(self, wanted: int) -> None:
        """Run the prompts of the next `wanted` requests, or fewer that fit into one forward pass."""
        chosen: list[int] = []
        width = 0
        for prompt, _ in [self.waiting[index] for index in range(min(wanted, len(self.waiting)))]:
            if prompt in chosen:
                continue
            width = max(width, len(self.prompts[prompt]))
            if chosen and width * (len(chosen) + 1) > TOKENS:
                break
            chosen.append(prompt)
        self.place = {prompt: row for row, prompt in enumerate(chosen)}
        self.held = Slots(self.model, len(chosen), width)
        headed = [(self.head_row[prompt], row) for row, prompt in enumerate(chosen)]
        copied = [(source, row) for source, row in headed if source is not None]
        self.held.copy_from(self.shared, [source for source, _ in copied], [row for _, row in copied])
        run(self.held, [self.prompts[prompt][self.heads[prompt] : -1] for prompt in chosen])


def run(slots: Slots, rows: Sequence[Sequence[int]]) -> None:
    """Append token rows of different lengths to the first rows of slots; padding on the right is seen by no one."""
    width = max(map(len, rows), default=0)
    if width:
        before = slots.lengths[: len(rows)].copy()
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        slots.forward(ids.to(slots.device))
        slots.lengths[: len(rows)] = before + [len(row) for row in rows]
