"""What a decoder is told of a batch of packs: token ids, position ids, and who sees whom."""

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

    Where no pack holds several rows the mask is the usual [B, T], and the library does with it what it always does.

    Raises:
        ValueError: rows are shared and the model has layers that attend in no way known here.
    """
    width = max(len(pack.tokens) for pack in packs)
    place = torch.from_numpy(_padded([pack.positions for pack in packs], width, 0)).to(device)
    told = {
        "input_ids": torch.from_numpy(_padded([pack.tokens for pack in packs], width, pad)).to(device),
        "position_ids": place,
    }
    if not any(pack.holds_several for pack in packs):
        real = _padded([np.ones_like(pack.tokens) for pack in packs], width, 0)
        return told | {"attention_mask": torch.from_numpy(real).to(device)}
    ends = torch.from_numpy(_padded([pack.ends for pack in packs], width, 0)).to(device)
    return told | {"attention_mask": _masks(decoder.config, _visible(ends), place, decoder.dtype)}


def _padded(arrays: Sequence[Indices], width: int, value: int) -> Indices:
    """Stacked [B, T], filled up on the right."""
    return np.stack([np.pad(array, (0, width - len(array)), constant_values=value) for array in arrays])


def _visible(ends: Tensor) -> Tensor:
    """[B, T, T]: whether the token (row) sees the other one (column).

    Padding, of which the end is 0, sees itself alone, because attention to nothing is not a number.
    """
    token = torch.arange(ends.shape[1], device=ends.device)
    seer, seen = token[:, None], token[None, :]
    return ((seen <= seer) & (seer < ends[:, None, :])) | (seer == seen)


def _masks(config: Any, seen: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Additive masks [B, 1, T, T]; windows reach back by places in the row, not in the pack."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    if not kinds <= {FULL, SLIDING} or (SLIDING in kinds and window is None):
        raise ValueError(f"layers of unknown kinds: {sorted(kinds)}")
    masks = {}
    if FULL in kinds:
        masks[FULL] = _additive(seen, dtype)
    if SLIDING in kinds and window is not None:
        distance = places[:, :, None] - places[:, None, :]
        masks[SLIDING] = _additive(seen & (distance < window), dtype)
    return masks if len(masks) > 1 or getattr(config, "layer_types", None) else next(iter(masks.values()))


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
