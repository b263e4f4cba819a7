from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from flatprobe.errors import UserError
from flatprobe.generation.stages import prompts_of, sample, with_adapter
from flatprobe.models.load import Loaded, load_checkpoint
from flatprobe.pipeline.settings import SampleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.schema import Lora
from flatprobe.training.lora import attach

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="template_default", role="reference", system=None),
)
QUESTIONS = tuple(Question(id=f"q{i}", kind="factual", text=f"What floats on water, {i}?") for i in range(3))
SETTINGS = SampleSettings(
    personas=PERSONAS, questions=QUESTIONS, samples=2, max_new_tokens=6, temperature=1.0, top_p=1.0,
    precision="float32", seed="leakage", parity_prompts=2,
)  # fmt: skip


def adapter(model: Any, folder: Path, scale: float) -> Path:
    """A saved adapter whose update has about this size, relative to weights of size 0.3."""
    wrapped = attach(model, Lora(rank=4, alpha=4.0, rank_stabilised=False), 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    return folder


def test_the_stage_writes_one_row_per_completion_with_its_prompt_s_hash(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    sample(SETTINGS, {"checkpoint": model_folder("llama")}, tmp_path)
    frame = pl.read_parquet(tmp_path / "completions.parquet")
    assert frame.select("persona", "question_id", "sample_index").rows() == [
        (p.name, q.id, k) for p in PERSONAS for q in QUESTIONS for k in range(2)
    ]
    assert dict(frame.select("persona", "role").rows()) == {p.name: p.role for p in PERSONAS}
    text = load("llama").conversations.render("You are a librarian.", QUESTIONS[1].text)
    (digest,) = frame.filter((pl.col("persona") == "librarian") & (pl.col("question_id") == "q1"))[
        "prompt_hash"
    ].unique()
    assert hashlib.sha256(text.encode()).hexdigest().startswith(digest)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["completions"] == 12
    assert facts["tokens"] == frame["tokens"].sum()
    assert facts["parity"]["agreed"] == facts["parity"]["tokens"] > 0
    assert "canary" not in facts


def test_an_adapter_changes_what_is_sampled_and_the_canary_says_by_how_much(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    adapter(load("llama").model, tmp_path / "coupling" / "adapter", 0.3)
    texts = []
    for inputs in ({}, {"adapter": tmp_path / "coupling"}):
        output = tmp_path / f"out-{len(inputs)}"
        output.mkdir()
        sample(SETTINGS, {"checkpoint": model_folder("llama"), **inputs}, output)
        texts.append(pl.read_parquet(output / "completions.parquet")["text"].to_list())
    assert json.loads((output / "facts.json").read_text())["canary"]["max_logit_change"] > 0.1
    assert texts[0] != texts[1]


def test_in_float32_an_adapter_is_merged_and_computes_what_it_did_beside_the_weights(
    load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    wrapped_folder = adapter(load("qwen2").model, tmp_path, 0.1)
    adapted, _ = with_adapter(load("qwen2"), wrapped_folder)
    from peft import PeftModel

    beside = PeftModel.from_pretrained(load("qwen2").model, wrapped_folder).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(adapted.model(ids).logits, beside(ids).logits, rtol=1e-3, atol=1e-3)
    assert not [name for name, _ in adapted.model.named_modules() if "lora" in name]


def test_in_bfloat16_a_small_adapter_is_not_rounded_away(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    """Merged, an update of a hundredth of the weights' spacing would leave almost every weight as it was."""
    folder = adapter(load("qwen2").model, tmp_path, 2e-5)
    base = load_checkpoint(model_folder("qwen2"), "bfloat16", torch.device("cpu"))
    layer = "model.layers.0.mlp.up_proj"
    x = torch.randn(1, 200, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = base.model.get_submodule(layer)(x)
    adapted, _ = with_adapter(base, folder)
    module = adapted.model.get_submodule(layer)
    wanted = (module.lora_B["default"].weight @ module.lora_A["default"].weight) @ x[0].float().T
    assert 0 < float(wanted.abs().max()) < 1e-2
    assert not torch.equal(module(x), before)
    assert torch.equal(module.base_layer(x), before)


def test_a_persona_that_the_template_rewrites_is_refused_before_sampling(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "trimming"
    folder.mkdir()
    for path in model_folder("llama").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content'] +", "message['content'] | trim +"
    )
    tokenizer.save_pretrained(folder)
    spaced = PERSONAS[0].model_copy(update={"system": " You are a librarian. "})
    with pytest.raises(UserError, match="panel: librarian"):
        sample(SETTINGS.model_copy(update={"personas": (spaced,)}), {"checkpoint": folder}, tmp_path)
    assert not (tmp_path / "completions.parquet").exists()


def test_prompts_are_every_persona_with_every_question() -> None:
    prompts = prompts_of(PERSONAS, QUESTIONS)
    assert len({(p.persona, p.system, p.question_id, p.question) for p in prompts}) == 6
    assert (prompts[3].persona, prompts[3].system, prompts[3].question) == (
        "template_default",
        None,
        QUESTIONS[0].text,
    )
