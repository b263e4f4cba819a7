"""The inputs of a decoder's forward pass over packs: token ids, position ids, attention masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatprobe.activations.packing import Indices, Pack

FULL, SLIDING = "full_attention", "sliding_attention"


def forward_inputs(decoder: Any, packs: Sequence[Pack], pad: int, device: Any) -> dict[str, Any]:
    """Keyword arguments of a forward pass over packs, padded on the right.

    If no pack holds several rows, the mask is the usual [B, T] one, which the library expands.

    Raises:
        ValueError: a pack holds several rows, and the model has layers of an unknown attention type.
    """
    width = max(len(pack.tokens) for pack in packs)
    positions = torch.from_numpy(_padded([pack.positions for pack in packs], width, 0)).to(device)
    inputs = {
        "input_ids": torch.from_numpy(_padded([pack.tokens for pack in packs], width, pad)).to(device),
        "position_ids": positions,
    }
    if not any(pack.holds_several for pack in packs):
        mask = _padded([np.ones_like(pack.tokens) for pack in packs], width, 0)
        return inputs | {"attention_mask": torch.from_numpy(mask).to(device)}
    ends = torch.from_numpy(_padded([pack.ends for pack in packs], width, 0)).to(device)
    return inputs | {"attention_mask": _masks(decoder.config, _visible(ends), positions, decoder.dtype)}


def _padded(arrays: Sequence[Indices], width: int, value: int) -> Indices:
    """The arrays stacked as [B, T], padded on the right."""
    return np.stack([np.pad(array, (0, width - len(array)), constant_values=value) for array in arrays])


def _visible(ends: Tensor) -> Tensor:
    """[B, T, T]: whether the query token (row) attends to the key token (column).

    Padding tokens, whose `ends` is 0, attend only to themselves: attention to no token would be NaN.
    """
    token = torch.arange(ends.shape[1], device=ends.device)
    query, key = token[:, None], token[None, :]
    return ((key <= query) & (query < ends[:, None, :])) | (query == key)


def _masks(config: Any, visible: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Additive masks [B, 1, T, T]. Sliding windows count positions in the row, not in the pack."""
    window: int | None = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    if not layer_types <= {FULL, SLIDING} or (SLIDING in layer_types and window is None):
        raise ValueError(f"unknown attention types: {sorted(layer_types)}")
    masks = {}
    if FULL in layer_types:
        masks[FULL] = _additive(visible, dtype)
    if SLIDING in layer_types and window is not None:
        distance = positions[:, :, None] - positions[:, None, :]
        masks[SLIDING] = _additive(visible & (distance < window), dtype)
    return masks if len(masks) > 1 or getattr(config, "layer_types", None) else next(iter(masks.values()))


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)
