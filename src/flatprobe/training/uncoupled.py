"""States of the checkpoint without its adapter: the reference of the KL anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatprobe.training.lora import without_adapter
from flatprobe.training.lower_states import LowerStates


class Uncoupled:
    """Final states of rows with the adapter switched off.

    They never change. They are cached if the lower states are: final states take no more memory than those.
    """

    def __init__(self, wrapped: Any, lower: LowerStates) -> None:
        self.wrapped, self.lower = wrapped, lower
        self.cache: dict[int, Tensor] = {}
        """Row number to final states [T, D]."""

    @torch.no_grad()
    def forward(self, numbers: Sequence[int]) -> Tensor:
        """Final states of the rows with these numbers, [B, T, D], right-padded, without gradient."""
        if not self.lower.caching:
            return self._without_adapter(numbers)
        missing = [number for number in numbers if number not in self.cache]
        if missing:
            states = self._without_adapter(missing)
            for index, number in enumerate(missing):
                self.cache[number] = states[index, : len(self.lower.rows[number])].clone()
        return nn.utils.rnn.pad_sequence([self.cache[number] for number in numbers], batch_first=True)

    def _without_adapter(self, numbers: Sequence[int]) -> Tensor:
        with without_adapter(self.wrapped):
            return self.lower.forward(numbers)
