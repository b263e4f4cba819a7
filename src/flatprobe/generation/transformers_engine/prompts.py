"""Prefill prompts: shared prefixes are computed once, and each prompt once for all its samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from flatprobe.generation.transformers_engine.slots import Slots

TOKENS = 8192  # of prompts in one forward pass, including padding


def shared_prefixes(rows: Sequence[Sequence[int]], groups: Sequence[Hashable]) -> list[int]:
    """For each row, the length of the prefix that all rows of its group share. It leaves at least one token."""
    prefixes: dict[Hashable, tuple[Sequence[int], int]] = {}
    for row, group in zip(rows, groups, strict=True):
        first, length = prefixes.get(group, (row, len(row) - 1))
        length = min(length, len(row) - 1)
        while length and first[:length] != row[:length]:
            length -= 1
        prefixes[group] = (first, length)
    return [prefixes[group][1] for group in groups]


class PromptCache:
    """Supplies requests, in order, with the keys and values of their prompts without the last token.

    The shared prefix of a group (a persona) is computed at the start, the rest of a prompt when its first request gets
    a row. The first decoding step computes a prompt's last token, so no logits are needed here.

    Args:
        prompts: token ids, one row per distinct prompt.
        groups: one per prompt; prompts of a group may share a prefix.
        requests: (prompt, request) in the order to serve; requests of one prompt are neighbours.
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
        self.prefix_lengths = shared_prefixes(prompts, groups)
        prefixes = [tuple(row[:length]) for row, length in zip(prompts, self.prefix_lengths, strict=True)]
        unique = [prefix for prefix in dict.fromkeys(prefixes) if prefix]
        self.prefix_rows = [unique.index(prefix) if prefix else None for prefix in prefixes]
        self.prefix_slots = Slots(model, max(1, len(unique)), max(map(len, unique), default=1))
        append_rows(self.prefix_slots, unique)
        self.prompt_slots = Slots(model, 1, 1)
        self.prompt_rows: dict[int, int] = {}
        """Row of each prefilled prompt in `prompt_slots`."""

    def fill(self, slots: Slots, rows: Sequence[int]) -> list[int]:
        """Fill rows for the next requests; returns these, at most one per row."""
        filled: list[int] = []
        while self.waiting and len(filled) < len(rows):
            if self.waiting[0][0] not in self.prompt_rows:
                self._prefill_next(len(rows) - len(filled))
            batch: list[tuple[int, int]] = []
            while self.waiting and len(filled) + len(batch) < len(rows) and self.waiting[0][0] in self.prompt_rows:
                batch.append(self.waiting.popleft())
            targets = rows[len(filled) : len(filled) + len(batch)]
            slots.copy_from(self.prompt_slots, [self.prompt_rows[prompt] for prompt, _ in batch], targets)
            filled += [request for _, request in batch]
        return filled

    def _prefill_next(self, count: int) -> None:
        """Prefill the prompts of the next `count` requests, or of fewer if one forward pass holds no more."""
        chosen: list[int] = []
        width = 0
        for prompt, _ in [self.waiting[index] for index in range(min(count, len(self.waiting)))]:
            if prompt in chosen:
                continue
            width = max(width, len(self.prompts[prompt]))
            if chosen and width * (len(chosen) + 1) > TOKENS:
                break
            chosen.append(prompt)
        self.prompt_rows = {prompt: row for row, prompt in enumerate(chosen)}
        self.prompt_slots = Slots(self.model, len(chosen), width)
        prefixed = [(self.prefix_rows[prompt], row) for row, prompt in enumerate(chosen)]
        copies = [(source, row) for source, row in prefixed if source is not None]
        self.prompt_slots.copy_from(self.prefix_slots, [source for source, _ in copies], [row for _, row in copies])
        rests = [self.prompts[prompt][self.prefix_lengths[prompt] : -1] for prompt in chosen]
        append_rows(self.prompt_slots, rests)


def append_rows(slots: Slots, rows: Sequence[Sequence[int]]) -> None:
    """Append token rows of different lengths to the first rows of slots. No token sees the padding on the right."""
    width = max(map(len, rows), default=0)
    if width:
        before = slots.lengths[: len(rows)].copy()
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        slots.forward(ids.to(slots.device))
        slots.lengths[: len(rows)] = before + [len(row) for row in rows]
