"""Repeated forward passes over a fixed list of token rows, without repeated work.

Two savings. Each is used only if a check on rows of the list shows that it changes no state:

1. Cache. If the adapter starts at decoder block `first`, the blocks below it give the same states in every pass. The
   states that enter block `first` are computed once per row; later passes run only the blocks from there on.
2. Packing. Rows of one persona start with the same system prompt. The rows of a pass are packed (see
   `activations.packing`), so a shared prefix is computed once, and little padding is computed.

The cache fails its check for models that rescale their embeddings, and packing for attention without custom masks. Such
models run all blocks, or one row per line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flatprobe.activations.masks import forward_inputs
from flatprobe.activations.packing import Pack, TokenRow, attention_ratio, common_prefix, merge_rows, pack_one_pass
from flatprobe.activations.read import TOLERANCE as PACKING_TOLERANCE
from flatprobe.activations.record import decoder_blocks
from flatprobe.training.lora import evaluating
from flatprobe.training.supervised import right_padded

CACHE_TOLERANCE = 1e-3  # largest error of a final state from cached states, relative to the RMS of the states
UNFIT = (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What decoders raise that cannot run with fewer blocks or with a custom mask."""


class _Stop(Exception):
    """Ends a forward pass once the states entering block `first` are recorded."""


def _check_value(rows: tuple[TokenRow, TokenRow]) -> tuple[int, int]:
    """How well a pair of rows shows a packing error: high if both the shared prefix and the shorter rest are long."""
    shared = common_prefix(*rows)
    return min(shared, min(map(len, rows)) - shared), shared


@contextmanager
def _upper_blocks(decoder: Any, first: int) -> Iterator[None]:
    """Inside the context the decoder has only its blocks from `first` on."""
    blocks = decoder.layers
    decoder.layers = nn.ModuleList(list(blocks)[first:])
    try:
        yield
    finally:
        decoder.layers = blocks


class LowerStates:
    """Final states of the rows of a fixed list, with a cache of the states below the first adapted block.

    With dropout, the rows of a pack share the dropout mask of their common prefix.
    """

    def __init__(self, model: Any, first: int, rows: Sequence[Sequence[int]], pad: int, batch: int) -> None:
        """Fill the cache.

        Args:
            first: first decoder block with an adapter; 0 caches nothing.
            pad: token id of padding.
            batch: rows in a pass that fills the cache.
        """
        self.decoder, self.first = model.get_decoder(), first
        self.rows, self.pad, self.device = [tuple(row) for row in rows], pad, model.device
        self.cache: list[Tensor] = []
        """The states [T, D] entering block `first` for each row; empty if nothing is cached."""
        config = model.config.get_text_config()
        self.ratio = attention_ratio(decoder_blocks(self.decoder)[-1], config.hidden_size)
        self.packing = self._packing_is_exact()
        if first > 0 and self._cache_is_exact([min(self.rows, key=len), max(self.rows, key=len)]):
            for start in range(0, len(rows), batch):
                self.cache += self._entering_states(self.rows[start : start + batch])

    @property
    def caching(self) -> bool:
        """Whether passes start at block `first`."""
        return bool(self.cache)

    def forward(self, numbers: Sequence[int]) -> Tensor:
        """Final states (after the norm) of the rows with these numbers, [B, T, D], right-padded."""
        rows = [self.rows[number] for number in numbers]
        if self.packing:
            packs = pack_one_pass(rows, ratio=self.ratio)
        else:
            packs = [merge_rows(rows, [index]) for index in range(len(rows))]
        if not self.caching:
            return unpack(self._run_all_blocks(packs), packs)
        return unpack(self._run_upper_blocks(packs, [self.cache[number] for number in numbers]), packs)

    def _run_all_blocks(self, packs: Sequence[Pack]) -> Tensor:
        """Final states of the packs' tokens, [packs, T, D]."""
        inputs = forward_inputs(self.decoder, packs, self.pad, self.device)
        output: Tensor = self.decoder(**inputs, use_cache=False).last_hidden_state
        return output

    def _run_upper_blocks(self, packs: Sequence[Pack], states: Sequence[Tensor]) -> Tensor:
        """The same, from each row's states [T, D] entering block `first`.

        Tokens that rows of a pack share have the same states in each row, so it does not matter which row fills them.
        """
        inputs = forward_inputs(self.decoder, packs, self.pad, self.device)
        width = inputs.pop("input_ids").shape[1]
        embeds = states[0].new_zeros(len(packs), width, states[0].shape[-1])
        for line, pack in enumerate(packs):
            for number, path in zip(pack.numbers, pack.paths, strict=True):
                embeds[line, torch.from_numpy(path)] = states[number]
        with _upper_blocks(self.decoder, self.first):
            output: Tensor = self.decoder(inputs_embeds=embeds, **inputs, use_cache=False).last_hidden_state
        return output

    @torch.no_grad()
    def _packing_is_exact(self) -> bool:
        """Whether packed rows have the states that they have alone.

        Checked on the pair of rows where an ignored mask would cause the largest error: a long shared prefix and long,
        different continuations.
        """
        pairs = [pair for pair in pairwise(sorted(self.rows)) if pair[0] != pair[1]]
        if not pairs:
            return False
        pair = max(pairs, key=_check_value)
        with evaluating(self.decoder):
            alone = [self._run_all_blocks([merge_rows([row], [0])])[0] for row in pair]
            try:
                packs = [merge_rows(pair, [0, 1])]
                packed = unpack(self._run_all_blocks(packs), packs)
            except UNFIT:
                return False
        errors = [
            ((one - other[: len(one)]).float().norm(dim=-1) / one.float().norm(dim=-1)).max()
            for one, other in zip(alone, packed, strict=True)
        ]
        return bool(max(errors) < PACKING_TOLERANCE[alone[0].dtype])

    @torch.no_grad()
    def _cache_is_exact(self, rows: Sequence[TokenRow]) -> bool:
        """Whether the upper blocks, run on cached states, give these rows the states of the whole decoder."""
        packs = [merge_rows(rows, [number]) for number in range(len(rows))]
        with evaluating(self.decoder):
            expected = unpack(self._run_all_blocks(packs), packs)
            try:
                states = unpack(self._run_upper_blocks(packs, self._entering_states(rows)), packs)
            except UNFIT:
                return False
        real = right_padded(rows, self.pad, self.device)[1].bool()
        error = (expected - states)[real].float().abs().max() / expected[real].float().square().mean().sqrt()
        return bool(error < CACHE_TOLERANCE)

    @torch.no_grad()
    def _entering_states(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """The states [T, D] that enter block `first`, for each row."""
        recorded: list[Tensor] = []

        def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recorded.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        ids, mask = right_padded(rows, self.pad, self.device)
        hook = decoder_blocks(self.decoder)[self.first].register_forward_pre_hook(record, with_kwargs=True)
        try:
            self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        except _Stop:
            pass
        finally:
            hook.remove()
        return [recorded[0][index, : len(row)].clone() for index, row in enumerate(rows)]


def unpack(states: Tensor, packs: Sequence[Pack]) -> Tensor:
    """The rows' states [rows, T', D], right-padded, in the order of row numbers, from those of packs [packs, T, D].

    Padding holds copies of real states, not zeros.
    """
    indices = {
        number: torch.from_numpy(path) + line * states.shape[1]
        for line, pack in enumerate(packs)
        for number, path in zip(pack.numbers, pack.paths, strict=True)
    }
    index = nn.utils.rnn.pad_sequence([indices[number] for number in sorted(indices)], batch_first=True)
    return states.flatten(0, 1)[index.to(states.device)]
