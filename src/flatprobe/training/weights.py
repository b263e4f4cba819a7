"""Stage: how large an adapter's update is in each module, relative to the module's weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import polars as pl
from safetensors import safe_open
from torch import Tensor

from flatprobe.facts import WeightsFacts, write_facts
from flatprobe.machine.local import current_machine
from flatprobe.models.adapter_files import PEFT_PREFIX, adapter_config, read_lora
from flatprobe.models.load import held_checkpoint, pick_device
from flatprobe.planner.contracts import WeightsSettings


def measure(settings: WeightsSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Measure an adapter. Inputs: `checkpoint`, and the `adapter` that flatprobe trained on it.

    Output: weights.parquet with one row (module, norm_ratio) per adapted module, and facts.json.

    Raises:
        UserError: the adapter belongs to another base.
    """
    folder, place = inputs["adapter"] / "adapter", f"adapter {inputs['adapter'].name}"
    device = pick_device(current_machine().device)
    model = held_checkpoint(inputs["checkpoint"], settings.precision, device).model
    weights = dict(model.named_parameters())
    adapter = read_lora(folder, place)
    adapter.require_weights({name: weight.shape for name, weight in weights.items()}, "this checkpoint")
    config = adapter_config(folder, place)
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        ratios = {}
        for name in sorted(adapter.updates):
            module = name.removesuffix(".weight")
            a, b = (file.get_tensor(f"{PEFT_PREFIX}{module}.lora_{factor}.weight") for factor in "AB")
            ratios[module] = scale * product_norm(b, a) / float(weights[name].float().norm())
    frame = pl.DataFrame({"module": list(ratios), "norm_ratio": list(ratios.values())})
    frame.write_parquet(output / "weights.parquet")
    write_facts(output, WeightsFacts(modules=frame.height, median_norm_ratio=median(ratios.values())))


def product_norm(b: Tensor, a: Tensor) -> float:
    """Frobenius norm of B A for B [out, r] and A [r, in], without the product: its square is sum(B'B * AA')."""
    b, a = b.double(), a.double()
    return math.sqrt(float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0.0)))
