from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from flatprobe.errors import UserError
from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import WeightsSettings
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach
from flatprobe.training.weights import measure, product_norm

SETTINGS = WeightsSettings(precision="float32")


def adapted(loaded: Loaded, lora: Lora, folder: Path) -> Any:
    """Store an adapter with random factors; returns the wrapped model."""
    wrapped = attach(loaded.model, lora, 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder / "adapter", safe_serialization=True)
    return wrapped


@pytest.mark.parametrize("stabilised", [True, False])
def test_norm_ratios_are_those_of_the_updates_that_peft_would_merge(
    load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path, stabilised: bool
) -> None:
    lora = Lora(rank=3, alpha=8, modules=("q_proj", "down_proj"), rank_stabilised=stabilised, first_layer=4)
    wrapped = adapted(load("qwen2"), lora, tmp_path)
    (tmp_path / "checkpoint").symlink_to(model_folder("qwen2"))
    measure(SETTINGS, {"checkpoint": tmp_path / "checkpoint", "adapter": tmp_path}, tmp_path)
    table = pl.read_parquet(tmp_path / "weights.parquet")
    assert table["module"].to_list() == [
        f"model.layers.{layer}.{module}" for layer in (4, 5) for module in ("mlp.down_proj", "self_attn.q_proj")
    ]
    modules = dict(wrapped.named_modules())
    for module, ratio in table.rows():
        layer = modules[f"base_model.model.{module}"]
        delta = layer.get_delta_weight("default").detach()
        assert ratio == pytest.approx(float(delta.norm() / layer.base_layer.weight.norm()), rel=1e-4)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts == {"modules": 4, "median_norm_ratio": pytest.approx(table["norm_ratio"].median())}


def test_an_adapter_of_a_wider_model_is_refused_by_name(
    load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    adapted(load("qwen2"), Lora(rank=2, modules=("q_proj",), rank_stabilised=False), tmp_path)
    (tmp_path / "checkpoint").symlink_to(model_folder("qwen2"))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: torch.cat([t, t], 1) if "lora_A" in name else t for name, t in tensors.items()}, path)
    with pytest.raises(UserError, match="q_proj") as refusal:
        measure(SETTINGS, {"checkpoint": tmp_path / "checkpoint", "adapter": tmp_path}, tmp_path)
    assert [problem.code for problem in refusal.value.problems] == ["adapter.other_base"]


@pytest.mark.parametrize("shape", [(40, 40), (24, 60), (60, 24)])
def test_a_product_s_norm_is_that_of_the_dense_product(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, shape[1], generator=generator), torch.randn(shape[0], 4, generator=generator)
    assert product_norm(b, a) == pytest.approx(float((b.double() @ a.double()).norm()), rel=1e-9)
    assert product_norm(torch.zeros_like(b), a) == 0.0
