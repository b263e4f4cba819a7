"""Keys and values of many sequences of different lengths, written in place.

Every sequence has a row; a token's column is its position. So a row can be given to another sequence at any step, and
nothing is copied as sequences grow, which is what most of a decoding step on a CPU goes into otherwise. What lies in a
row behind its end is never seen: it has positions that no query has reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from flatprobe.errors import UserError

ROOM = 64  # columns by which rows grow, at least
KINDS = frozenset(["full_attention", "sliding_attention"])


def attention_kinds(model: Any) -> list[str]:
    """How each block of a model attends to its past.

    Raises:
        UserError: in a way that is not kept as keys and values by position.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        windowed = getattr(config, "sliding_window", None) is not None
        kinds = ["sliding_attention" if windowed else "full_attention"] * config.num_hidden_layers
    if other := sorted(set(kinds) - KINDS):
        raise UserError.one(
            "slots.TODO",
            "machine: engine",
            f"the transformers engine cannot sample from blocks of the kind {', '.join(other)}",
            "use engine: vllm or openai",
        )
    return list(kinds)


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # the library's hook for subclasses
    """One block's keys and values [rows, heads, columns, size]; `slots` says where the next ones belong."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room, now that the shapes are known; it is set to 0, since NaN times a weight of 0 is NaN."""
        rows, columns = self.slots.rows, self.slots.columns
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Write [n, heads, Q, size] into the first n rows at the announced columns; returns what the rows hold."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        slots, n = self.slots, key_states.shape[0]
        self.keys[slots.index, :, slots.places] = key_states.transpose(1, 2)
        self.values[slots.index, :, slots.places] = value_states.transpose(1, 2)
        return self.keys[:n, :, : slots.reach], self.values[:n, :, : slots.reach]

    def resize(self, columns: int) -> None:
        """Have this many columns."""
        if self.is_initialized:
            self.keys, self.values = (_widened(held, columns) for held in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.reach, 0

    def get_seq_length(self) -> int:
        return self.slots.reach

    def get_max_length(self) -> int:
        return -1


def _widened(held: Any, columns: int) -> Tensor:
    rows, heads, before, size = held.shape
    wider: Tensor = held.new_zeros(rows, heads, columns, size)
    wider[:, :, :before] = held
    return wider


class Slots:
    """Rows of keys and values of one model. `lengths` holds the tokens in each row."""

    def __init__(self, model: Any, rows: int, columns: int) -> None:
        self.model, self.rows, self.columns = model, rows, columns
        self.device = next(model.parameters()).device
        self.kinds = attention_kinds(model)
        self.layers = [SlotLayer(self) for _ in self.kinds]
        self.cache = Cache(layers=list(self.layers))
        self.lengths = np.zeros(rows, dtype=np.int64)
        self.index = self.places = torch.empty(0)
        self.reach = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Append ids [n, Q] to the first n rows; returns the logits [n, V] behind the last of them.

        A row's `lengths` entry counts the ids as they are; a caller that padded them on the right corrects it.
        """
        n, width = ids.shape
        self.reserve(int(self.lengths[:n].max()) + width)
        logits = self.append(ids, torch.tensor(self.lengths[:n], device=self.device))
        self.lengths[:n] += width
        return logits

    def append(self, ids: Tensor, starts: Tensor) -> Tensor:
        """What `forward` does on the device, once there is room; the rows hold `starts` [n] tokens. Counts nothing."""
        n, width = ids.shape
        self.index = torch.arange(n, device=self.device).unsqueeze(1)
        self.places = starts.unsqueeze(1) + torch.arange(width, device=self.device)
        logits: Tensor = self.model(
            input_ids=ids, position_ids=self.places, attention_mask=self._mask(), past_key_values=self.cache,
            use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
        return logits[:, -1]

    def copy_from(self, other: Slots, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Fill rows with copies of another's (or with its own, none of which is overwritten)."""
        lengths = other.lengths[list(sources)]
        if reach := int(lengths.max(initial=0)):
            self._widen(reach)
            source, target = (
                torch.tensor(sources, device=self.device),
                torch.tensor(targets, device=self.device),
            )
            for mine, theirs in zip(self.layers, other.layers, strict=True):
                if not mine.is_initialized:
                    mine.lazy_initialization(theirs.keys, theirs.values)  # type: ignore[arg-type]
                mine.keys[target, :, :reach] = theirs.keys[source, :, :reach]  # type: ignore[index]
                mine.values[target, :, :reach] = theirs.values[source, :, :reach]  # type: ignore[index]
        self.lengths[list(targets)] = lengths

    def reserve(self, reach: int) -> None:
        """Have room for rows of this many tokens, which the next forward pass looks at."""
        self.reach = reach
        self._widen(reach)

    def _widen(self, columns: int) -> None:
        if columns > self.columns:
            self.columns = columns + max(ROOM, columns // 8)
            for layer in self.layers:  # one at a time, so that little is held twice
                layer.resize(self.columns)

    def _mask(self) -> Any:
        """What each new token sees, as the model takes it: itself and its past, all of it or a window's."""
        columns = torch.arange(self.reach, device=self.device)
        query = self.places.unsqueeze(-1)  # [n, Q, 1]
        past = columns <= query
        window: Any = getattr(self.model.config.get_text_config(), "sliding_window", None)
        masks = {
            kind: self._added(past if kind == "full_attention" else past & (columns > query - window))
            for kind in set(self.kinds)
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _added(self, seen: Tensor) -> Tensor:
        """[n, 1, Q, columns], to be added to the scores: all implementations take it, and on CPUs it is the fastest."""
        dtype = self.model.dtype
        return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
