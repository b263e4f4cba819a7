"""Adapters with random updates of a known size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach


def adapter(model: Any, folder: Path, scale: float, seed: int = 1) -> Path:
    """Save an adapter with random updates; weights have a size of about 0.3."""
    wrapped = attach(model, Lora(rank=4, alpha=4.0, rank_stabilised=False), 0)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    return folder
