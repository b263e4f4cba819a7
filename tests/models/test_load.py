from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file

from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.load import checkpoint_path, load_checkpoint, pick_device
from flatprobe.models.reference import resolve
from flatprobe.planner.contracts import CheckpointSettings
from flatprobe.training.checkpoint import use_checkpoint

CPU = torch.device("cpu")


def test_a_given_checkpoint_is_a_pointer_and_loads_from_its_folder(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    located = resolve(str(model_folder("llama")), None, "model")
    local = current_machine().model_copy(update={"locations": {located.reference.fingerprint: located.location}})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    use_checkpoint(CheckpointSettings(reference=located.reference), {}, tmp_path)
    assert checkpoint_path(tmp_path) == model_folder("llama").resolve()
    assert json.loads((tmp_path / "facts.json").read_text())["model_type"] == "llama"
    assert str(model_folder("llama")) not in (tmp_path / "checkpoint.json").read_text()
    weights = load_file(model_folder("llama") / "model.safetensors")
    loaded = load_checkpoint(tmp_path, "float32", CPU)
    assert torch.equal(loaded.model.model.embed_tokens.weight, weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loaded_model_is_frozen_in_evaluation_mode_and_in_the_requested_precision(
    model_folder: Callable[[str], Path], precision: str
) -> None:
    model = load_checkpoint(model_folder("qwen2"), precision, CPU).model  # type: ignore[arg-type]
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {getattr(torch, precision)}


def test_a_checkpoint_with_a_missing_weight_is_refused_instead_of_filled_at_random(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(model_folder("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with refused(("model.weights_missing", str(folder)), value="model.layers.3.mlp.up_proj.weight"):
        load_checkpoint(folder, "float32", CPU)


def test_a_folder_with_only_pickled_weights_does_not_load(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(model_folder("llama"), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_checkpoint(folder, "float32", CPU)


def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with refused(("machine.device", "machine: device"), value="cuda"):
        pick_device("cuda")
    assert pick_device("auto") == torch.device("cpu")


def test_automatic_devices_prefer_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
