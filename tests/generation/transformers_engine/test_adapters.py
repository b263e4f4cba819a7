from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_files import adapter
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from flatprobe.errors import UserError
from flatprobe.generation.transformers_engine.adapters import AdapterSwitch, unmerged
from flatprobe.models.load import Loaded, load_checkpoint

IDS = torch.tensor([[5, 6, 7, 8]])


@torch.no_grad()
def logits(loaded: Loaded) -> torch.Tensor:
    return loaded.model(IDS).logits


def test_in_float32_a_merged_adapter_computes_the_same_as_an_unmerged_one(
    load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    folder = adapter(load("qwen2").model, tmp_path, 0.1)
    loaded = load("qwen2")
    AdapterSwitch(loaded.model).use(folder)
    wrapped = PeftModel.from_pretrained(load("qwen2").model, folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(loaded), wrapped(IDS).logits, rtol=1e-3, atol=1e-3)
    assert not [name for name, _ in loaded.model.named_modules() if "lora" in name]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_are_switched_and_the_base_is_restored_bit_for_bit(
    load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    one, two = (adapter(load("llama").model, tmp_path / str(seed), 0.3, seed) for seed in (1, 2))
    loaded = load_checkpoint(model_folder("llama"), precision, torch.device("cpu"))  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    switch, base = AdapterSwitch(loaded.model), logits(loaded)
    outputs = []
    for folder in (one, two, None, one):
        switch.use(folder)
        outputs.append(logits(loaded))
    assert torch.equal(outputs[0], outputs[3]) and torch.equal(outputs[2], base)
    assert not torch.equal(outputs[0], base) and not torch.equal(outputs[0], outputs[1])
    switch.use(None)
    after = loaded.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_in_bfloat16_a_small_adapter_is_not_rounded_away(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    """Merging would round almost all of this update away: it is a hundredth of the spacing of the weights."""
    folder = adapter(load("qwen2").model, tmp_path, 2e-5)
    base = load_checkpoint(model_folder("qwen2"), "bfloat16", torch.device("cpu"))
    layer = "model.layers.0.mlp.up_proj"
    x = torch.randn(1, 200, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = base.model.get_submodule(layer)(x)
    AdapterSwitch(base.model).use(folder)
    module = base.model.get_submodule(layer)
    update = (module.lora_B["default"].weight @ module.lora_A["default"].weight) @ x[0].float().T
    assert 0 < float(update.abs().max()) < 1e-2
    assert not torch.equal(module(x), before)
    assert torch.equal(module.base_layer(x), before)


def test_an_adapter_of_another_base_is_refused_with_the_weight_that_differs(
    load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    folder = adapter(load("llama").model, tmp_path, 0.1)
    loaded = load("llama")
    loaded.model.model.layers[2].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
    with pytest.raises(UserError, match=r"model.layers.2.mlp.up_proj.weight is \[48, 32\].* \[40, 32\]") as other:
        AdapterSwitch(loaded.model).use(folder)
    assert [problem.code for problem in other.value.problems] == ["adapter.other_base"]
    del loaded.model.model.layers[5]
    loaded.model.model.layers[2] = load("llama").model.model.layers[2]
    with pytest.raises(UserError, match=r"model.layers.5.*missing"):
        AdapterSwitch(loaded.model).use(folder)


def test_a_folder_without_a_lora_adapter_is_refused(load: Callable[[str], Loaded], tmp_path: Path) -> None:
    switch = AdapterSwitch(load("llama").model)
    for code in ("adapter.no_config", "adapter.not_lora"):
        with pytest.raises(UserError) as refusal:
            switch.use(tmp_path)
        (problem,) = refusal.value.problems
        assert (problem.code, problem.place) == (code, f"adapter {tmp_path}")
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))


def test_weights_that_are_stored_transposed_fit_their_adapter(tmp_path: Path) -> None:
    """GPT-2 stores [in, out]."""
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    get_peft_model(GPT2LMHeadModel(config), lora).save_pretrained(tmp_path / "adapter")
    AdapterSwitch(GPT2LMHeadModel(config)).use(tmp_path / "adapter")
    wider = GPT2Config(n_embd=48, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    with pytest.raises(UserError, match=r"c_attn.weight is \[96, 32\].* \[144, 48\]"):
        AdapterSwitch(GPT2LMHeadModel(wider)).use(tmp_path / "adapter")


def test_an_unmerged_adapter_is_removed_even_after_an_error(load: Callable[[str], Loaded], tmp_path: Path) -> None:
    folder = adapter(load("llama").model, tmp_path, 0.3)
    loaded = load("llama")
    base = logits(loaded)

    def fails_unmerged() -> None:
        with unmerged(loaded.model, folder):
            assert not torch.equal(logits(loaded), base)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fails_unmerged()
    assert torch.equal(logits(loaded), base)
