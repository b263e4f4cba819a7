"""States of many rows at all positions and layers, each token computed once and only what is wanted kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from flatprobe.activations.masks import forward_inputs
from flatprobe.activations.packing import Pack, attention_ratio, merge_rows, pack_rows
from flatprobe.activations.positions import ProbedRow
from flatprobe.activations.record import check_decoder_only, decoder_blocks, record, run_recorded
from flatprobe.config.blocks import Position
from flatprobe.errors import Problem, UserError
from flatprobe.models.fit import context_length
from flatprobe.models.load import Loaded

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""Largest distance, relative to a state's norm, between packed and lone rows that rounding explains."""


@dataclass(frozen=True, eq=False)
class CellStates:
    """What was read, and what it cost."""

    states: dict[Position, NDArray[np.float32]]
    """Per position, [C, L, D]: C cells."""
    tokens: int
    """Tokens of all rows."""
    computed: int
    """Tokens that were run: fewer, where rows share what they begin with; the check of that is not counted."""


def read_states(
    loaded: Loaded,
    rows: Sequence[ProbedRow],
    layers: Sequence[int],
    positions: Sequence[Position],
    *,
    batch: int,
    cells: Sequence[int] | None = None,
    report: Callable[[int], None] | None = None,
) -> CellStates:
    """Read the states of rows; block outputs, means taken and given in float32 whatever the model computes in.

    That packing changes no state is not assumed but checked on the longest row that would share anything; where it
    does (attention of another kind, say), every row is run by itself.

    Args:
        batch: rows in one forward pass, at most.
        cells: each row's cell, counted from 0; the states of a cell's rows are averaged. Default: every row is one.
        report: is told how many rows are done.

    Raises:
        UserError: an unsuitable model, a layer it has not, a row beyond its context, or a state that is not finite.
    """
    check_decoder_only(loaded.model)
    _check_context(loaded.model.config, rows)
    reader = _Reader(loaded, rows, tuple(layers), tuple(positions))
    packs = reader.packs(batch)
    cells = range(len(rows)) if cells is None else cells
    counts = np.bincount(cells).astype(np.float32)
    shape = (len(counts), len(layers), loaded.model.config.get_text_config().hidden_size)
    found: dict[Position, NDArray[np.float32]] = {p: np.zeros(shape, np.float32) for p in positions}
    done = 0
    for chosen in group_passes(packs, batch):
        for number, states in reader.read(chosen):
            for place, position in enumerate(positions):
                found[position][cells[number]] += states[place]
            done += 1
        if report is not None:
            report(done)
    for values in found.values():
        values /= counts[:, None, None]
    total = sum(len(row.tokens) for row in rows)
    return CellStates(found, total, sum(len(pack.tokens) for pack in packs))


class _Reader:
    """Runs packs of a list of rows through a model."""

    def __init__(
        self,
        loaded: Loaded,
        rows: Sequence[ProbedRow],
        layers: tuple[int, ...],
        positions: tuple[Position, ...],
    ) -> None:
        self.loaded, self.rows, self.layers, self.positions = loaded, rows, layers, positions
        self.decoder, self.device = loaded.model.get_decoder(), loaded.device
        self.pad = loaded.conversations.turn_end

    def packs(self, batch: int) -> list[Pack]:
        """All rows, packed where that is exact."""
        packs = plan_packs(self.loaded, self.rows, batch)
        return packs if self._exact(packs) else [self._alone(n) for n in _longest_first(self.rows)]

    def read(self, packs: Sequence[Pack]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Each row's number and states [positions, L, D] from one forward pass.

        Raises:
            UserError: a state that is not finite when its row is run alone. (In a pass with others it may not be finite
                by their fault: what is masked has weight 0, and 0 times infinity is not a number.)
        """
        values = self._run(packs)
        numbers = [number for pack in packs for number in pack.numbers]
        if not torch.isfinite(values).all():
            values = torch.cat([self._run([self._alone(number)]) for number in numbers])
            self._check_finite(values, numbers)
        return zip(numbers, values.numpy(), strict=True)

    def _alone(self, number: int) -> Pack:
        return merge_rows([row.tokens for row in self.rows], [number])

    @torch.inference_mode()
    def _run(self, packs: Sequence[Pack]) -> Tensor:
        """States [rows of the packs, positions, L, D] in float32, on the CPU."""
        with record(self.decoder, self.layers, keep=self._wanted(packs)) as recording:
            run_recorded(self.decoder, **forward_inputs(self.decoder, packs, self.pad, self.device))
        states = torch.stack([recording.states[layer] for layer in self.layers], dim=1).cpu()
        return states.reshape(-1, len(self.positions), *states.shape[1:])

    def _wanted(self, packs: Sequence[Pack]) -> Callable[[Tensor], Tensor]:
        """What turns a block's output [B, T, D] into the states of every row and position, [rows * positions, D]."""
        width = max(len(pack.tokens) for pack in packs)
        bags = [
            line * width + path[where.start : where.stop]
            for line, pack in enumerate(packs)
            for number, path in zip(pack.numbers, pack.paths, strict=True)
            for where in map(self.rows[number].indices, self.positions)
        ]
        starts = np.cumsum([0, *map(len, bags[:-1])])
        index = torch.from_numpy(np.concatenate(bags)).to(self.device)
        offsets = torch.from_numpy(starts).to(self.device)

        def keep(states: Tensor) -> Tensor:
            return embedding_bag(index, states.flatten(0, 1).float(), offsets, mode="mean")

        return keep

    def _exact(self, packs: Sequence[Pack]) -> bool:
        """Whether a row's states in a pack are those that it has alone, tried on the longest row there is in one."""
        tried = [
            (pack.numbers[0], number) for pack in packs if pack.holds_several for number in pack.numbers[1:]
        ]
        if not tried:
            return True
        pair = max(tried, key=lambda numbers: len(self.rows[numbers[1]].tokens))
        try:
            packed_states = self._run([merge_rows([row.tokens for row in self.rows], pair)])[1]
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
            return False  # a decoder that takes no such mask
        alone = self._run([self._alone(pair[1])])[0]
        error = (packed_states - alone).norm(dim=-1) / alone.norm(dim=-1)
        return bool((error < TOLERANCE[self.decoder.dtype]).all())

    def _check_finite(self, values: Tensor, numbers: Sequence[int]) -> None:
        """Name the lowest layer with a state [rows, positions, L, D] that is not finite, and where that is."""
        bad = (~torch.isfinite(values).all(-1)).nonzero().tolist()
        if not bad:
            return
        row, position, layer = min(bad, key=lambda place: self.layers[place[2]])
        probed = self.rows[numbers[row]]
        raise UserError.one(
            "read.TODO",
            f"geometry: layer {self.layers[layer]}, {self.positions[position]}",
            f"the state of {probed.persona} on question {probed.question_id} is not finite",
            "use precision float32; if it is, the checkpoint's weights are damaged",
        )


def plan_packs(loaded: Loaded, rows: Sequence[ProbedRow], batch: int) -> list[Pack]:
    """The packs in which these rows are run, where sharing is exact."""
    decoder = loaded.model.get_decoder()
    ratio = attention_ratio(decoder_blocks(decoder)[0], decoder.config.hidden_size)
    return pack_rows([row.tokens for row in rows], most=batch, ratio=ratio)


def group_passes(packs: Sequence[Pack], batch: int) -> Iterator[list[Pack]]:
    """Packs that run together: neighbours in length, with no more rows than `batch` in all."""
    chosen: list[Pack] = []
    for pack in packs:
        if chosen and sum(len(other.numbers) for other in (*chosen, pack)) > batch:
            yield chosen
            chosen = []
        chosen.append(pack)
    yield chosen


def _longest_first(rows: Sequence[ProbedRow]) -> list[int]:
    return sorted(range(len(rows)), key=lambda number: -len(rows[number].tokens))


def _check_context(config: Any, rows: Sequence[ProbedRow]) -> None:
    """Refuse rows that are longer than the model's context, all at once."""
    limit = context_length(config.get_text_config())
    longest = {row.persona: row for row in sorted(rows, key=lambda row: len(row.tokens))}
    problems = [
        Problem(
            "read.TODO",
            f"panel: {persona}",
            f"with question {row.question_id} and its answer {len(row.tokens)} tokens, beyond the context of {limit}",
            "shorten the persona's prompt, or lower geometry.max_new_tokens",
        )
        for persona, row in longest.items()
        if limit is not None and len(row.tokens) > limit
    ]
    if problems:
        raise UserError(problems)
