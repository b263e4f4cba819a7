"""States below the first adapted block computed once, and tokens that rows share once a pass.

Where adapters sit only in upper blocks, the lower ones give the same states in every epoch. They are stored per row
and training runs the upper blocks on them. Rows of a persona begin with the same system prompt; laid into packs, they
are trained on without computing it for each, and hardly any padding is computed. That either way gives the same states
is not assumed but checked on rows of the list; where it does not (a model that rescales its embeddings, attention of
another kind), the whole model is run on rows by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flatprobe.activations.masks import forward_inputs
from flatprobe.activations.packing import (
    Pack,
    TokenRow,
    attention_ratio,
    common_prefix,
    merge_rows,
    pack_one_pass,
)
from flatprobe.activations.read import TOLERANCE as SHARED_TOLERANCE
from flatprobe.activations.record import decoder_blocks
from flatprobe.training.supervised import right_padded

TOLERANCE = 1e-3  # of shortened models, relative to the states' RMS
UNFIT = (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What a decoder of another build raises when it is shortened or given a mask of one's own."""


class _Stop(Exception):
    pass


def _at_stake(rows: tuple[TokenRow, TokenRow]) -> tuple[int, int]:
    """Tokens of either kind, shared and the shorter rest, whichever are fewer; of equals, what is shared."""
    shared = common_prefix(*rows)
    return min(shared, min(map(len, rows)) - shared), shared


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
    """Forward passes over a fixed list of rows: blocks below `first` are run once and their output is stored, and what
    rows begin with in common is computed once a pass (under dropout, with one draw for all of them)."""

    def __init__(self, model: Any, first: int, rows: Sequence[Sequence[int]], pad: int, batch: int) -> None:
        self.decoder, self.first = model.get_decoder(), first
        self.rows, self.pad, self.device = [tuple(row) for row in rows], pad, model.device
        self.states: list[Tensor] = []
        config = model.config.get_text_config()
        self.ratio = attention_ratio(decoder_blocks(self.decoder)[-1], config.hidden_size)
        self.shares = self._sharing_is_exact()
        if first > 0 and self._shortening_is_exact([min(self.rows, key=len), max(self.rows, key=len)]):
            for start in range(0, len(rows), batch):
                self.states += self._inputs(self.rows[start : start + batch])

    @property
    def active(self) -> bool:
        return bool(self.states)

    def forward(self, numbers: Sequence[int]) -> Tensor:
        """Final states [B, T, D] (after the norm) of the rows with these numbers, right-padded."""
        rows = [self.rows[number] for number in numbers]
        packs = (
            pack_one_pass(rows, ratio=self.ratio)
            if self.shares
            else [merge_rows(rows, [n]) for n in range(len(rows))]
        )
        if not self.states:
            return unpacked(self._whole(packs), packs)
        return unpacked(self._upper(packs, [self.states[number] for number in numbers]), packs)

    def _whole(self, packs: Sequence[Pack]) -> Tensor:
        """Final states of the packs' tokens, [packs, T, D]."""
        told = forward_inputs(self.decoder, packs, self.pad, self.device)
        output: Tensor = self.decoder(**told, use_cache=False).last_hidden_state
        return output

    def _upper(self, packs: Sequence[Pack], states: Sequence[Tensor]) -> Tensor:
        """The same from the rows' states below block `first`; tokens that rows share have the same in each."""
        told = forward_inputs(self.decoder, packs, self.pad, self.device)
        width = told.pop("input_ids").shape[1]
        embeds = states[0].new_zeros(len(packs), width, states[0].shape[-1])
        for line, pack in enumerate(packs):
            for number, path in zip(pack.numbers, pack.paths, strict=True):
                embeds[line, torch.from_numpy(path)] = states[number]
        with _upper_blocks(self.decoder, self.first):
            output: Tensor = self.decoder(inputs_embeds=embeds, **told, use_cache=False).last_hidden_state
        return output

    @torch.no_grad()
    def _sharing_is_exact(self) -> bool:
        """Whether rows computed together have the states that they have alone, tried where a
        mask that is not heeded would show most: on two rows that share much and go on long and differently."""
        order = sorted(self.rows)
        pairs = [pair for pair in pairwise(order) if pair[0] != pair[1]]
        if not pairs:
            return False
        pair = max(pairs, key=_at_stake)
        with _evaluating(self.decoder):
            alone = [self._whole([merge_rows([row], [0])])[0] for row in pair]
            try:
                packs = [merge_rows(pair, [0, 1])]
                shared = unpacked(self._whole(packs), packs)
            except UNFIT:
                return False
        errors = [
            ((own - states[: len(own)]).float().norm(dim=-1) / own.float().norm(dim=-1)).max()
            for own, states in zip(alone, shared, strict=True)
        ]
        return bool(max(errors) < SHARED_TOLERANCE[alone[0].dtype])

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
    def _shortening_is_exact(self, rows: Sequence[TokenRow]) -> bool:
        packs = [merge_rows(rows, [number]) for number in range(len(rows))]
        with _evaluating(self.decoder):
            whole = unpacked(self._whole(packs), packs)
            try:
                short = unpacked(self._upper(packs, self._inputs(rows)), packs)
            except UNFIT:
                return False
        real = right_padded(rows, self.pad, self.device)[1].bool()
        error = (whole - short)[real].float().abs().max() / whole[real].float().square().mean().sqrt()
        return bool(error < TOLERANCE)


def unpacked(states: Tensor, packs: Sequence[Pack]) -> Tensor:
    """States of packs [packs, T, D] row by row in the rows' order, right-padded: [rows, T', D]."""
    places = {
        number: torch.from_numpy(path) + line * states.shape[1]
        for line, pack in enumerate(packs)
        for number, path in zip(pack.numbers, pack.paths, strict=True)
    }
    index = nn.utils.rnn.pad_sequence([places[number] for number in sorted(places)], batch_first=True)
    return states.flatten(0, 1)[index.to(states.device)]


@contextmanager
def _evaluating(decoder: Any) -> Iterator[None]:
    """The decoder without dropout."""
    was_training = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(was_training)
