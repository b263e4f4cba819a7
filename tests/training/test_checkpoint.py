from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from transformers import AutoModelForCausalLM

from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.load import Loaded, load_checkpoint
from flatprobe.models.reference import Reference
from flatprobe.planner.contracts import MergeSettings
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.checkpoint import PROBES, mean_kl, merge
from flatprobe.training.lora import attach

LORA = Lora(rank=4, alpha=8.0, modules=("q_proj", "down_proj"), rank_stabilised=False)
CPU = torch.device("cpu")


def learnt(model: Any, scale: float = 0.1) -> Any:
    """The model with an adapter of random B matrices."""
    wrapped = attach(model, LORA, 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return wrapped.eval()


@pytest.fixture
def merged(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Saves an adapter and merges it into a family's checkpoint; gives the output folder."""

    def run(wrapped: Any, *, family: str = "llama", dtype: Any = "float32", given: Reference | None = None) -> Path:
        if given is None:
            wrapped.save_pretrained(tmp_path / "trained" / "adapter")
        output = tmp_path / "output"
        output.mkdir()
        inputs = {"checkpoint": model_folder(family), "adapter": tmp_path / "trained"}
        merge(MergeSettings(dtype=dtype, given=given), inputs, output)
        return output

    return run


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mistral"])
def test_the_stored_model_computes_the_same_as_model_and_adapter(
    load: Callable[[str], Loaded], merged: Callable[..., Path], family: str
) -> None:
    wrapped = learnt(load(family).model)
    stored = load_checkpoint(merged(wrapped, family=family), "float32", CPU)
    ids = torch.tensor([stored.conversations.encode(stored.conversations.render("Be brief.", "Why?"))])
    expected = wrapped(ids).logits
    torch.testing.assert_close(stored.model(ids).logits, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(load(family).model(ids).logits, expected, atol=0.05)
    assert not [name for name, _ in stored.model.named_modules() if "lora" in name]


def test_the_facts_of_a_merge_have_norm_changed_matrices_and_a_vanishing_difference(
    load: Callable[[str], Loaded], merged: Callable[..., Path]
) -> None:
    output = merged(learnt(load("llama").model))
    facts = json.loads((output / "facts.json").read_text())
    assert facts["adapter_norm"] > 0
    assert facts["changed_matrices"] == 1.0
    assert abs(facts["mean_kl"]) < 1e-6
    assert facts["max_logit_change"] < 1e-3


def test_the_facts_of_a_bfloat16_checkpoint_have_the_difference_that_the_cast_made(
    load: Callable[[str], Loaded], merged: Callable[..., Path]
) -> None:
    wrapped = learnt(load("llama").model)
    output = merged(wrapped, dtype="bfloat16")
    facts = json.loads((output / "facts.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    conversations, changes = load("llama").conversations, []
    divergences: dict[str, list[float]] = {"mean_kl": [], "mean_kl_in_dtype": []}
    for name, precision in (("mean_kl", torch.float32), ("mean_kl_in_dtype", torch.bfloat16)):
        stored = AutoModelForCausalLM.from_pretrained(output, dtype=precision)
        for question in PROBES:
            ids = torch.tensor([conversations.encode(conversations.render(None, question))])
            with torch.no_grad():
                left, right = wrapped(ids).logits[0], stored(ids).logits[0].float()
            divergences[name].append(mean_kl(left, right))
            if precision == torch.float32:
                changes.append(float((left - right).abs().max()))
    assert facts["max_logit_change"] == pytest.approx(max(changes), rel=0.02)
    for name, values in divergences.items():
        assert facts[name] == pytest.approx(sum(values) / 2, rel=0.05)
    assert 1e-6 < facts["mean_kl"] < facts["mean_kl_in_dtype"]  # rounding in the forward pass is not the merge's


def test_the_divergence_equals_torch_s() -> None:
    left, right = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.kl_div(
        right.log_softmax(-1), left.log_softmax(-1), reduction="batchmean", log_target=True
    )
    assert mean_kl(left, right) == pytest.approx(float(expected), rel=1e-5)
    assert mean_kl(left, left + 3.0) == pytest.approx(0.0, abs=1e-6)


def test_a_given_adapter_is_found_where_the_machine_says(
    load: Callable[[str], Loaded], merged: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt(load("llama").model).save_pretrained(tmp_path / "given")
    local = current_machine().model_copy(update={"locations": {"f": str(tmp_path / "given")}})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    output = merged(None, given=Reference(kind="local", id="given", fingerprint="f"))
    assert json.loads((output / "facts.json").read_text())["adapter"]["fingerprint"] == "f"


@pytest.mark.parametrize("depth", [4, 8])
def test_an_adapter_of_a_shallower_or_deeper_base_is_refused(
    load: Callable[[str], Loaded], merged: Callable[..., Path], depth: int
) -> None:
    config = load("llama").model.config
    config.num_hidden_layers = depth
    with refused(("adapter.other_base", "adapter adapter")):
        merged(learnt(AutoModelForCausalLM.from_config(config)))


def test_an_adapter_of_a_wider_base_is_refused(load: Callable[[str], Loaded], merged: Callable[..., Path]) -> None:
    config = load("llama").model.config
    config.hidden_size, config.head_dim = 64, 16
    with refused(("adapter.other_base", "adapter adapter")):
        merged(learnt(AutoModelForCausalLM.from_config(config)))


def test_an_adapter_of_norm_zero_is_refused(load: Callable[[str], Loaded], merged: Callable[..., Path]) -> None:
    with refused(("adapter.no_update", "adapter adapter"), value="0.0"):
        merged(learnt(load("llama").model, scale=0.0))


def test_a_pickled_adapter_is_refused_without_reading_it(
    load: Callable[[str], Loaded], merged: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "given"
    learnt(load("llama").model).save_pretrained(folder)
    (folder / "adapter_model.safetensors").rename(folder / "other.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"not to be opened")
    local = current_machine().model_copy(update={"locations": {"f": str(folder)}})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    with refused(("adapter.no_weights", "adapter given")):
        merged(None, given=Reference(kind="local", id="given", fingerprint="f"))
