"""Stage: what one adapter does to each weight matrix of its checkpoint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import safe_open

from flatprobe.errors import UserError
from flatprobe.machine.local import current_machine
from flatprobe.models.adapter_files import PEFT_PREFIX, read_lora
from flatprobe.models.load import held_checkpoint, pick_device
from flatprobe.pipeline.progress import report_progress
from flatprobe.plan.contracts import WeightsSettings
from flatprobe.training.weights import change_of

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def measure(settings: WeightsSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Measure an adapter. Inputs: `checkpoint`, and `adapter` that was trained on it.

    Output: weights.parquet, one row per adapted module (module, layer, matrix, rank and the fields of
    :class:`flatprobe.training.weights.Change`), and facts.json with counts over them.

    Raises:
        UserError: the adapter is no plain LoRA, or of another base.
    """
    folder = inputs["adapter"] / "adapter"
    scale = scale_of(
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")), folder.parent.name
    )
    device = pick_device(current_machine().device)
    model = held_checkpoint(inputs["checkpoint"], settings.precision, device).model
    weights = dict(model.named_parameters())
    adapter = read_lora(folder, f"adapter {folder.parent.name}")
    adapter.require_weights({name: weight.shape for name, weight in weights.items()}, "this checkpoint")
    rows: list[dict[str, Any]] = []
    with safe_open(folder / "adapter_model.safetensors", "pt", device=str(device)) as file:
        names = sorted(name for name in file.keys() if name.endswith(".lora_A.weight"))  # noqa: SIM118  # no mapping
        for count, name in enumerate(names, start=1):
            module = name.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
            a, b = file.get_tensor(name), file.get_tensor(name.replace(".lora_A.", ".lora_B."))
            change = change_of(
                weights[f"{module}.weight"], a, b, scale, leading=settings.leading, cosine=settings.cosine
            )
            layer = _LAYER.search(name)
            rows.append(
                {
                    "module": module, "layer": int(layer[1]) if layer else None,
                    "matrix": module.rpartition(".")[2], "rank": a.shape[0], **asdict(change),
                }
            )  # fmt: skip
            report_progress(count, len(names), "modules")
    frame = pl.DataFrame(rows, schema_overrides={"layer": pl.Int64, "effective_rank": pl.Float64})
    frame.write_parquet(output / "weights.parquet")
    facts = {
        "modules": frame.height, "leading": settings.leading, "cosine": settings.cosine,
        "intruders": int(frame["intruders"].sum()),
        "modules_with_intruders": int((frame["intruders"] > 0).sum()),
        "median_norm_ratio": frame["norm_ratio"].median(),
    }  # fmt: skip
    (output / "facts.json").write_text(json.dumps(facts))


def scale_of(config: Mapping[str, Any], name: str) -> float:
    """Factor of B A: alpha/r, or alpha/sqrt(r) with rank stabilisation.

    Raises:
        UserError: an adapter whose update is not that product for every module alike.
    """
    odd = [key for key in ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out") if config.get(key)]
    if odd or config.get("peft_type") != "LORA":
        raise UserError.one(
            "weights_stage.TODO",
 f"adapter {name}", f"its updates are not plain LoRA products ({', '.join(odd) or config.get('peft_type')})",
            "give an adapter of peft_type LORA without these",
        )  # fmt: skip
    rank = int(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
