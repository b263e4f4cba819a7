from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from adapter_files import adapter
from safetensors.torch import load_file

from flatprobe.errors import UserError
from flatprobe.models.adapter_files import read_lora, tensor_shapes
from flatprobe.models.load import Loaded


def test_shapes_read_from_a_header_are_those_of_the_tensors(load: Callable[[str], Loaded], tmp_path: Path) -> None:
    path = adapter(load("llama").model, tmp_path, 0.1) / "adapter_model.safetensors"
    assert tensor_shapes(path) == {name: list(tensor.shape) for name, tensor in load_file(path).items()}


def test_the_files_of_an_adapter_tell_its_rank_its_modules_and_its_updates(
    load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    model = load("llama").model
    folder = adapter(model, tmp_path, 0.1)
    files = read_lora(folder, "here")
    weights = {name.replace(".base_layer", ""): list(p.shape) for name, p in model.named_parameters()}
    assert files.rank == 4 and {"q_proj", "down_proj"} <= files.modules
    assert all(weights[name] == shape for name, shape in files.updates.items())
    config = json.loads((folder / "adapter_config.json").read_text()) | {"rank_pattern": {"q_proj": 16}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert read_lora(folder, "here").rank == 16


def test_an_adapter_is_compared_with_files_that_know_its_weights_by_name(
    load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    files = read_lora(adapter(load("llama").model, tmp_path / "adapter", 0.1), "here")
    files.require_checkpoint(model_folder("llama"))
    files.require_checkpoint(tmp_path / "adapter")  # knows none of the names
    shapes = dict(files.updates)
    weight = next(iter(shapes))
    shapes[weight] = shapes[weight][::-1] if len(set(shapes[weight])) > 1 else [1, 1]
    for wrong in (shapes, {name: shape for name, shape in shapes.items() if name != weight}):
        with pytest.raises(UserError, match=weight) as refusal:
            files.require_weights(wrong, "other")
        assert [(p.code, p.place) for p in refusal.value.problems] == [("adapter.other_base", "here")]
