"""States below the first adapted block, computed once.

Where adapters sit only in upper blocks, the lower ones give the same states in every epoch. They are stored per row
and training runs the upper blocks on them. That the shortened model computes the same is not assumed but checked on
the shortest and the longest row; where it does not (a model that rescales its embeddings, say), the whole model is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flatprobe.activations.record import decoder_blocks
from flatprobe.training.supervised import right_padded

TOLERANCE = 1e-3  # relative to the states' RMS


class _Stop(Exception):
    pass


@contextmanager
def _upper_blocks(decoder: Any, first: int) -> Iterator[None]:
    """The decoder with its lower blocks out of the way."""
    whole = decoder.layers
    decoder.layers = nn.ModuleList(list(whole)[first:])
    try:
        yield
    finally:
        decoder.layers = whole


class LowerStates:
    """Input states of block `first` for a fixed list of rows, and the upper blocks' forward pass on them."""

    def __init__(self, model: Any, first: int, rows: Sequence[Sequence[int]], pad: int, batch: int) -> None:
        self.decoder, self.first = model.get_decoder(), first
        self.rows, self.pad, self.device = rows, pad, model.device
        self.states: list[Tensor] = []
        if first > 0 and self._shortening_is_exact([min(rows, key=len), max(rows, key=len)]):
            for start in range(0, len(rows), batch):
                self.states += self._inputs(rows[start : start + batch])

    @property
    def active(self) -> bool:
        return bool(self.states)

    def forward(self, numbers: Sequence[int]) -> Tensor:
        """Final states [B, T, D] (after the norm) of the rows with these numbers, right-padded."""
        ids, mask = right_padded([self.rows[number] for number in numbers], self.pad, self.device)
        if not self.states:
            output: Tensor = self.decoder(
                input_ids=ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
            return output
        return self._upper([self.states[number] for number in numbers], mask)

    def _upper(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        embeds = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        with _upper_blocks(self.decoder, self.first):
            output: Tensor = self.decoder(
                inputs_embeds=embeds, attention_mask=mask, use_cache=False
            ).last_hidden_state
        return output

    @torch.no_grad()
    def _inputs(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        caught: list[Tensor] = []

        def catch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        ids, mask = right_padded(rows, self.pad, self.device)
        handle = decoder_blocks(self.decoder)[self.first].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        except _Stop:
            pass
        finally:
            handle.remove()
        return [caught[0][index, : len(row)].clone() for index, row in enumerate(rows)]

    @torch.no_grad()
    def _shortening_is_exact(self, rows: Sequence[Sequence[int]]) -> bool:
        was_training = self.decoder.training
        self.decoder.eval()
        ids, mask = right_padded(rows, self.pad, self.device)
        whole = self.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[
            mask.bool()
        ]
        try:
            short = self._upper(self._inputs(rows), mask)[mask.bool()]
        except (
            RuntimeError,
            TypeError,
            AttributeError,
            IndexError,
        ):  # a decoder of another build: run it whole
            return False
        finally:
            self.decoder.train(was_training)
        error = (whole.float() - short.float()).abs().max() / whole.float().square().mean().sqrt()
        return bool(error < TOLERANCE)
