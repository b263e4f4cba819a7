"""Read the hidden states of many rows at given positions and layers. Each shared token is computed once."""

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
"""Largest allowed distance between states of packed and separate rows, relative to a state's norm (rounding)."""


@dataclass(frozen=True, eq=False)
class CellStates:
    """The states of cells, and the numbers of tokens."""

    states: dict[Position, NDArray[np.float32]]
    """Per position [C, L, D], with C cells."""
    tokens: int
    """Tokens of all rows."""
    computed: int
    """Tokens that were computed: fewer than `tokens` if rows share prefixes. Without those of the check of packing."""


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
    """Read the states of rows: outputs of decoder blocks, averaged and returned in float32.

    The longest row that shares a prefix is run packed and alone. If its states differ beyond `TOLERANCE`, for example
    because the model ignores custom masks, every row is run alone.

    Args:
        layers: 0-based decoder blocks.
        batch: maximum number of rows in one forward pass.
        cells: the 0-based cell of each row; states are averaged over a cell's rows. Default: one cell per row.
        report: called with the number of finished rows.

    Raises:
        UserError: the model is not a decoder-only text model, a layer does not exist, a row exceeds the context, or a
            state is not finite.
    """
    check_decoder_only(loaded.model)
    _check_context(loaded.model.config, rows)
    reader = _Reader(loaded, rows, tuple(layers), tuple(positions))
    packs = reader.packs(batch)
    cells = range(len(rows)) if cells is None else cells
    counts = np.bincount(cells).astype(np.float32)
    shape = (len(counts), len(layers), loaded.model.config.get_text_config().hidden_size)
    states: dict[Position, NDArray[np.float32]] = {p: np.zeros(shape, np.float32) for p in positions}
    done = 0
    for group in group_passes(packs, batch):
        for number, row_states in reader.read(group):
            for position, position_states in zip(positions, row_states, strict=True):
                states[position][cells[number]] += position_states
            done += 1
        if report is not None:
            report(done)
    for sums in states.values():
        sums /= counts[:, None, None]
    tokens = sum(len(row.tokens) for row in rows)
    return CellStates(states, tokens, computed=sum(len(pack.tokens) for pack in packs))


class _Reader:
    """Runs packs of a list of rows through a model."""

    def __init__(
        self, loaded: Loaded, rows: Sequence[ProbedRow], layers: tuple[int, ...], positions: tuple[Position, ...]
    ) -> None:
        self.loaded, self.rows, self.layers, self.positions = loaded, rows, layers, positions
        self.decoder, self.device = loaded.model.get_decoder(), loaded.device
        self.pad = loaded.conversations.turn_end

    def packs(self, batch: int) -> list[Pack]:
        """All rows, packed if that changes no state."""
        packs = plan_packs(self.loaded, self.rows, batch)
        return packs if self._packing_is_exact(packs) else [self._alone(n) for n in _longest_first(self.rows)]

    def read(self, packs: Sequence[Pack]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Each row's index and states [positions, L, D] from one forward pass.

        If a state is not finite, the rows are run again one by one: a masked token has weight 0, and 0 times infinity
        is NaN, so another row of the pack may be the cause.

        Raises:
            UserError: a state of a row that is run alone is not finite.
        """
        states = self._run(packs)
        numbers = [number for pack in packs for number in pack.numbers]
        if not torch.isfinite(states).all():
            states = torch.cat([self._run([self._alone(number)]) for number in numbers])
            self._check_finite(states, numbers)
        return zip(numbers, states.numpy(), strict=True)

    def _alone(self, number: int) -> Pack:
        return merge_rows([row.tokens for row in self.rows], [number])

    @torch.inference_mode()
    def _run(self, packs: Sequence[Pack]) -> Tensor:
        """States of all rows in the packs [rows, positions, L, D], float32 on the CPU."""
        with record(self.decoder, self.layers, keep=self._reduction(packs)) as recording:
            run_recorded(self.decoder, **forward_inputs(self.decoder, packs, self.pad, self.device))
        states = torch.stack([recording.states[layer] for layer in self.layers], dim=1).cpu()
        return states.reshape(-1, len(self.positions), *states.shape[1:])

    def _reduction(self, packs: Sequence[Pack]) -> Callable[[Tensor], Tensor]:
        """Function from a block's output [B, T, D] to the states of all rows and positions [rows * positions, D]."""
        width = max(len(pack.tokens) for pack in packs)
        bags = [
            line * width + path[indices.start : indices.stop]
            for line, pack in enumerate(packs)
            for number, path in zip(pack.numbers, pack.paths, strict=True)
            for indices in map(self.rows[number].indices, self.positions)
        ]
        starts = np.cumsum([0, *map(len, bags[:-1])])
        index = torch.from_numpy(np.concatenate(bags)).to(self.device)
        offsets = torch.from_numpy(starts).to(self.device)

        def keep(states: Tensor) -> Tensor:
            return embedding_bag(index, states.flatten(0, 1).float(), offsets, mode="mean")

        return keep

    def _packing_is_exact(self, packs: Sequence[Pack]) -> bool:
        """Whether the longest row that shares a pack has the same states packed and alone."""
        pairs = [(pack.numbers[0], number) for pack in packs if pack.holds_several for number in pack.numbers[1:]]
        if not pairs:
            return True
        pair = max(pairs, key=lambda numbers: len(self.rows[numbers[1]].tokens))
        try:
            packed_states = self._run([merge_rows([row.tokens for row in self.rows], pair)])[1]
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
            return False  # the decoder does not accept the mask
        alone = self._run([self._alone(pair[1])])[0]
        error = (packed_states - alone).norm(dim=-1) / alone.norm(dim=-1)
        return bool((error < TOLERANCE[self.decoder.dtype]).all())

    def _check_finite(self, states: Tensor, numbers: Sequence[int]) -> None:
        """Refuse states [rows, positions, L, D] that are not finite, naming the lowest layer."""
        bad = (~torch.isfinite(states).all(-1)).nonzero().tolist()
        if not bad:
            return
        row, position, layer = min(bad, key=lambda index: self.layers[index[2]])
        probed = self.rows[numbers[row]]
        raise UserError.one(
            "geometry.not_finite",
            f"geometry: layer {self.layers[layer]}, {self.positions[position]}",
            f"the state of {probed.persona} on question {probed.question_id} is not finite",
            "use precision float32; if it already is, the checkpoint's weights are damaged",
        )


def plan_packs(loaded: Loaded, rows: Sequence[ProbedRow], batch: int) -> list[Pack]:
    """The packs of these rows, if packing changes no state."""
    decoder = loaded.model.get_decoder()
    ratio = attention_ratio(decoder_blocks(decoder)[0], decoder.config.hidden_size)
    return pack_rows([row.tokens for row in rows], most=batch, ratio=ratio)


def group_passes(packs: Sequence[Pack], batch: int) -> Iterator[list[Pack]]:
    """Consecutive packs that run in one forward pass, with at most `batch` rows in total."""
    group: list[Pack] = []
    for pack in packs:
        if group and sum(len(other.numbers) for other in (*group, pack)) > batch:
            yield group
            group = []
        group.append(pack)
    yield group


def _longest_first(rows: Sequence[ProbedRow]) -> list[int]:
    return sorted(range(len(rows)), key=lambda number: -len(rows[number].tokens))


def _check_context(config: Any, rows: Sequence[ProbedRow]) -> None:
    """Refuse all rows that exceed the model's context; the longest of each persona is named."""
    limit = context_length(config.get_text_config())
    longest = {row.persona: row for row in sorted(rows, key=lambda row: len(row.tokens))}
    problems = [
        Problem(
            "context.exceeded",
            f"panel: {persona}",
            f"with question {row.question_id} and its answer: {len(row.tokens)} tokens exceed the context of {limit}",
            "shorten the persona's prompt, or lower geometry.max_new_tokens",
        )
        for persona, row in longest.items()
        if limit is not None and len(row.tokens) > limit
    ]
    if problems:
        raise UserError(problems)
