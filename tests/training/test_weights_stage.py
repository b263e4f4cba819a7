from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from flatprobe.errors import UserError
from flatprobe.models.load import Loaded
from flatprobe.plan.contracts import WeightsSettings
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach
from flatprobe.training.weights_stage import measure, scale_of

SETTINGS = WeightsSettings(precision="float32", leading=4, cosine=0.5)


def adapted(loaded: Loaded, lora: Lora, folder: Path) -> Any:
    """An adapter with drawn factors, stored; returns the wrapped model."""
    wrapped = attach(loaded.model, lora, 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder / "adapter", safe_serialization=True)
    return wrapped


@pytest.mark.parametrize("stabilised", [True, False])
def test_every_module_s_update_is_the_one_that_peft_would_merge(
    load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path, stabilised: bool
) -> None:
    lora = Lora(rank=3, alpha=8, modules=("q_proj", "down_proj"), rank_stabilised=stabilised, first_layer=4)
    wrapped = adapted(load("qwen2"), lora, tmp_path)
    write_pointer(model_folder("qwen2"), tmp_path / "checkpoint")
    measure(SETTINGS, {"checkpoint": tmp_path / "checkpoint", "adapter": tmp_path}, tmp_path)
    table = pl.read_parquet(tmp_path / "weights.parquet")
    assert table.select("layer", "matrix").sort("layer", "matrix").rows() == [
        (layer, matrix) for layer in (4, 5) for matrix in ("down_proj", "q_proj")
    ]
    modules = dict(wrapped.named_modules())
    for row in table.iter_rows(named=True):
        layer = modules["base_model.model." + row["module"]]
        delta = layer.get_delta_weight("default").detach()
        assert row["change_norm"] == pytest.approx(float(delta.norm()), rel=1e-4)
        assert row["norm_ratio"] == pytest.approx(
            float(delta.norm() / layer.base_layer.weight.norm()), rel=1e-4
        )
        assert row["rank"] == 3 and 1 <= row["effective_rank"] <= 3
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["modules"], facts["intruders"]) == (4, table["intruders"].sum())


def write_pointer(model: Path, folder: Path) -> None:
    """A checkpoint artifact: the model's files."""
    folder.symlink_to(model)


def test_an_adapter_of_a_wider_model_is_refused_by_name(
    load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    adapted(load("qwen2"), Lora(rank=2, modules=("q_proj",), rank_stabilised=False), tmp_path)
    write_pointer(model_folder("qwen2"), tmp_path / "checkpoint")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: torch.cat([t, t], 1) if "lora_A" in name else t for name, t in tensors.items()}, path)
    with pytest.raises(UserError, match="q_proj") as refusal:
        measure(SETTINGS, {"checkpoint": tmp_path / "checkpoint", "adapter": tmp_path}, tmp_path)
    assert [problem.code for problem in refusal.value.problems] == ["adapter.other_base"]


def test_only_plain_lora_has_a_scale() -> None:
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False}
    assert scale_of(plain, "a") == 2.0
    assert scale_of({**plain, "use_rslora": True}, "a") == 4.0
    with pytest.raises(UserError, match="use_dora"):
        scale_of({**plain, "use_dora": True}, "a")
    with pytest.raises(UserError, match="IA3"):
        scale_of({**plain, "peft_type": "IA3"}, "a")
