from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from refusals import refused

from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import adapter_norm, attach, require_learnt

LORA = Lora(rank=4, alpha=8.0, modules=("q_proj", "down_proj"), rank_stabilised=False)


def test_a_fresh_adapter_changes_nothing_and_has_norm_zero(loaded: Loaded) -> None:
    ids = torch.tensor([[5, 6, 7]])
    before = loaded.model(ids).logits
    wrapped = attach(loaded.model, LORA, 0)
    assert torch.equal(wrapped.eval()(ids).logits, before)
    assert adapter_norm(wrapped) == 0.0


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_the_update_is_scaled_by_alpha_over_r_or_over_its_root(
    load: Callable[[str], Loaded], stabilised: bool, scale: float
) -> None:
    wrapped = attach(load("llama").model, LORA.model_copy(update={"rank_stabilised": stabilised}), 0)
    module = wrapped.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    module.lora_B["default"].weight.data.fill_(1.0)
    delta = scale * module.lora_B["default"].weight @ module.lora_A["default"].weight
    x = torch.randn(1, 3, module.base_layer.in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.eval()(x), module.base_layer(x) + x @ delta.T)


def test_only_the_named_modules_from_the_first_layer_on_are_trained_in_float32(load: Callable[[str], Loaded]) -> None:
    model = load("qwen2").model.to(torch.bfloat16)
    wrapped = attach(model, LORA.model_copy(update={"first_layer": 4}), 0)
    trained = {name: p.dtype for name, p in wrapped.named_parameters() if p.requires_grad}
    assert {name.split(".layers.")[1].split(".lora")[0] for name in trained} == {
        f"{layer}.{module}" for layer in (4, 5) for module in ("self_attn.q_proj", "mlp.down_proj")
    }
    assert set(trained.values()) == {torch.float32}


def test_the_seed_determines_the_initial_adapter(load: Callable[[str], Loaded]) -> None:
    def first(seed: int) -> torch.Tensor:
        wrapped = attach(load("llama").model, LORA, seed)
        return next(p for name, p in wrapped.named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("module", ["qproj", "mlp", "layers"])
def test_a_module_that_is_missing_or_not_linear_is_refused(load: Callable[[str], Loaded], module: str) -> None:
    with refused(("lora.unknown_module", "lora.modules"), value=module):
        attach(load("llama").model, LORA.model_copy(update={"modules": ("q_proj", module)}), 0)


def test_a_first_layer_beyond_the_model_is_refused(load: Callable[[str], Loaded]) -> None:
    with refused(("lora.layer_range", "lora.first_layer"), value="6 decoder blocks"):
        attach(load("llama").model, LORA.model_copy(update={"first_layer": 6}), 0)


def test_the_norm_is_the_frobenius_norm_of_all_b_matrices(load: Callable[[str], Loaded]) -> None:
    wrapped = attach(load("llama").model, LORA, 0)
    matrices = [p for name, p in wrapped.named_parameters() if "lora_B" in name]
    for matrix in matrices:
        matrix.data.fill_(0.5)
    assert require_learnt(wrapped, "coupling") == pytest.approx(0.5 * math.sqrt(sum(m.numel() for m in matrices)))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_an_adapter_that_learnt_nothing_or_diverged_is_refused(load: Callable[[str], Loaded], value: float) -> None:
    wrapped = attach(load("llama").model, LORA, 0)
    next(p for name, p in wrapped.named_parameters() if "lora_B" in name).data.fill_(value)
    with refused(("adapter.no_update", "coupling"), value=f"{value}"):
        require_learnt(wrapped, "coupling")


def test_adapting_the_output_head_is_refused(load: Callable[[str], Loaded]) -> None:
    lora = Lora(modules=("q_proj", "lm_head"), rank_stabilised=True)
    with refused(("lora.output_head", "lora.modules"), value="lm_head"):
        attach(load("qwen2").model, lora, 0)
