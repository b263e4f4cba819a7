"""A key-value cache for sequences of different lengths, written in place.

Each sequence has a row; a token's column is its position. So a row can be given to another sequence at any step, and
growing sequences are not copied, which would take most of a decoding step on a CPU. Tokens never see what a row holds
after its end: their mask hides later positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from flatprobe.errors import UserError

GROWTH = 64  # fewest columns by which rows grow
KINDS = frozenset(["full_attention", "sliding_attention"])


def attention_kinds(model: Any) -> list[str]:
    """The kind of attention of each block.

    Raises:
        UserError: a kind that this cache does not support.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        windowed = getattr(config, "sliding_window", None) is not None
        kinds = ["sliding_attention" if windowed else "full_attention"] * config.num_hidden_layers
    if unsupported := sorted(set(kinds) - KINDS):
        raise UserError.one(
            "engine.attention",
            "machine: engine",
            f"the transformers engine cannot sample from blocks of the kind {', '.join(unsupported)}",
            "use engine: vllm or openai",
        )
    return list(kinds)


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # the library's hook for subclasses
    """One block's keys and values [rows, heads, columns, size]; `slots` says where to write the next ones."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, once the shapes are known; filled with 0, since NaN times a weight of 0 is NaN."""
        rows, columns = self.slots.rows, self.slots.columns
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Write [n, heads, Q, size] to the first n rows at the slots' positions; returns the columns in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        slots, n = self.slots, key_states.shape[0]
        self.keys[slots.row_index, :, slots.positions] = key_states.transpose(1, 2)
        self.values[slots.row_index, :, slots.positions] = value_states.transpose(1, 2)
        return self.keys[:n, :, : slots.columns_in_use], self.values[:n, :, : slots.columns_in_use]

    def resize(self, columns: int) -> None:
        """Grow to this many columns."""
        if self.is_initialized:
            self.keys, self.values = (_widened(tensor, columns) for tensor in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.columns_in_use, 0

    def get_seq_length(self) -> int:
        return self.slots.columns_in_use

    def get_max_length(self) -> int:
        return -1


def _widened(tensor: Any, columns: int) -> Tensor:
    rows, heads, before, size = tensor.shape
    wider: Tensor = tensor.new_zeros(rows, heads, columns, size)
    wider[:, :, :before] = tensor
    return wider


class Slots:
    """Rows of keys and values of one model.

    Attributes:
        lengths: number of tokens in each row.
        columns: allocated ones.
        columns_in_use: those that the next forward pass reads.
        positions: [n, Q], where the forward pass under way writes its tokens.
    """

    def __init__(self, model: Any, rows: int, columns: int) -> None:
        self.model, self.rows, self.columns = model, rows, columns
        self.device = next(model.parameters()).device
        self.kinds = attention_kinds(model)
        self.layers = [SlotLayer(self) for _ in self.kinds]
        self.cache = Cache(layers=list(self.layers))
        self.lengths = np.zeros(rows, dtype=np.int64)
        self.row_index = self.positions = torch.empty(0)
        self.columns_in_use = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Append ids [n, Q] to the first n rows; returns the logits [n, V] after the last of them.

        `lengths` then counts all ids; a caller that padded them on the right corrects it.
        """
        n, width = ids.shape
        self.reserve(int(self.lengths[:n].max()) + width)
        logits = self.append(ids, torch.tensor(self.lengths[:n], device=self.device))
        self.lengths[:n] += width
        return logits

    def append(self, ids: Tensor, starts: Tensor) -> Tensor:
        """The device's part of `forward`, after `reserve`; rows hold `starts` [n] tokens. Leaves `lengths` as it is."""
        n, width = ids.shape
        self.row_index = torch.arange(n, device=self.device).unsqueeze(1)
        self.positions = starts.unsqueeze(1) + torch.arange(width, device=self.device)
        logits: Tensor = self.model(
            input_ids=ids,
            position_ids=self.positions,
            attention_mask=self._mask(),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def copy_from(self, other: Slots, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy another's rows `sources` to `targets`; `other` may be this one if none of its sources is a target."""
        lengths = other.lengths[list(sources)]
        if width := int(lengths.max(initial=0)):
            self._widen(width)
            source = torch.tensor(sources, device=self.device)
            target = torch.tensor(targets, device=self.device)
            for mine, theirs in zip(self.layers, other.layers, strict=True):
                if not mine.is_initialized:
                    mine.lazy_initialization(theirs.keys, theirs.values)  # type: ignore[arg-type]
                mine.keys[target, :, :width] = theirs.keys[source, :, :width]  # type: ignore[index]
                mine.values[target, :, :width] = theirs.values[source, :, :width]  # type: ignore[index]
        self.lengths[list(targets)] = lengths

    def reserve(self, columns: int) -> None:
        """Let the next forward pass use this many columns, and allocate them."""
        self.columns_in_use = columns
        self._widen(columns)

    def _widen(self, columns: int) -> None:
        if columns > self.columns:
            self.columns = columns + max(GROWTH, columns // 8)
            for layer in self.layers:  # one at a time: less memory is needed for copies
                layer.resize(self.columns)

    def _mask(self) -> Any:
        """What each new token sees: itself and its past, or the part of it in a sliding window."""
        columns = torch.arange(self.columns_in_use, device=self.device)
        query = self.positions.unsqueeze(-1)  # [n, Q, 1]
        past = columns <= query
        window: Any = getattr(self.model.config.get_text_config(), "sliding_window", None)
        masks = {
            kind: self._additive(past if kind == "full_attention" else past & (columns > query - window))
            for kind in set(self.kinds)
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _additive(self, visible: Tensor) -> Tensor:
        """[n, 1, Q, columns], added to the scores. All implementations accept it; it is the fastest on CPUs."""
        dtype = self.model.dtype
        mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
        return mask.unsqueeze(1)
