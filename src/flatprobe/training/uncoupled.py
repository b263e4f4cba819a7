"""The checkpoint without its adapter, as the distribution that an anchor holds on to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatprobe.training.lower_states import LowerStates


class Uncoupled:
    """Final states of rows with the adapter switched off.

    They never change. Where the lower blocks' states are stored, these, which are no larger, are stored too.
    """

    def __init__(self, wrapped: Any, lower: LowerStates) -> None:
        self.wrapped, self.lower = wrapped, lower
        self.kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def forward(self, numbers: Sequence[int]) -> Tensor:
        """Final states [B, T, D] of the rows with these numbers, right-padded; without gradient."""
        if not self.lower.active:
            return self._run(numbers)
        missing = [number for number in numbers if number not in self.kept]
        if missing:
            states = self._run(missing)
            for index, number in enumerate(missing):
                self.kept[number] = states[index, : len(self.lower.rows[number])].clone()
        return nn.utils.rnn.pad_sequence([self.kept[number] for number in numbers], batch_first=True)

    def _run(self, numbers: Sequence[int]) -> Tensor:
        was_training = self.wrapped.training
        self.wrapped.eval()
        with self.wrapped.disable_adapter():
            states = self.lower.forward(numbers)
        self.wrapped.train(was_training)
        return states
