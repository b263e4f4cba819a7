"""Draw tokens by inverting the cumulative distribution at a uniform number of each row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

STRIDE = 256  # tokens per group; only one group per row needs its cumulative sum token by token
VALUES = 2**26  # weights in memory at once: 256 MiB, plus as much for intermediate results


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row by inverse-CDF sampling.

    Args:
        logits: [B, V], any float type; the distribution is computed in float32.
        uniform: [B] float32 in [0, 1).

    Returns:
        [B] token ids. top_p < 1 keeps the smallest set of most likely tokens with at least that mass.
    """
    if temperature == 0.0:
        return logits.argmax(-1)
    rows = max(1, VALUES // logits.shape[1])
    if len(logits) > rows:
        parts = zip(torch.split(logits, rows), torch.split(uniform, rows), strict=True)
        return torch.cat([draw(*part, temperature, top_p) for part in parts])
    scaled = logits if temperature == 1.0 else logits.float() / temperature
    weights = torch.softmax(scaled, dim=-1, dtype=torch.float32)
    if top_p < 1.0:
        weights = nucleus(weights, top_p)
    if missing := -weights.shape[1] % STRIDE:
        weights = pad(weights, (0, missing))
    groups = weights.view(len(weights), -1, STRIDE)
    cumulative = groups.sum(-1).cumsum(-1)
    target = uniform.unsqueeze(-1) * cumulative[:, -1:]
    group = _first_above(cumulative, target)
    before = cumulative.gather(1, (group - 1).clamp(min=0)).masked_fill(group == 0, 0.0)
    within = groups.gather(1, group.unsqueeze(-1).expand(-1, -1, STRIDE)).squeeze(1).cumsum(-1)
    return (group * STRIDE + _first_above(within, target - before)).squeeze(-1)


def nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The weights [B, V], with 0 outside the nucleus."""
    ordered, order = weights.sort(dim=-1, descending=True)
    cumulative = ordered.cumsum(-1)
    dropped = cumulative - ordered >= top_p * cumulative[:, -1:]
    return weights.scatter(-1, order, ordered.masked_fill(dropped, 0.0))


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Per row, the first index [B, 1] whose cumulative weight exceeds the target [B, 1].

    Rounding may raise a target to the total, which no index exceeds; so targets are kept below the total.
    """
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulative, torch.minimum(target, below), right=True)
