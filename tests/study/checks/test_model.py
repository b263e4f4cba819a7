"""Problems of a study with its model, from the model's folder without weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafts import Draft
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flatprobe.errors import Problem
from flatprobe.study.checks.model import model_problems

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def save_tokenizer(folder: Path, template: str | None) -> None:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(["You are a librarian.\n\n"], trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIAL[1], pad_token=SPECIAL[1])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder without weights: 6 blocks, a context of 1,024 tokens, about a token per byte."""
    folder = tmp_path_factory.mktemp("tiny-model")
    save_tokenizer(folder, CHATML)
    config = {"model_type": "llama", "num_hidden_layers": 6, "hidden_size": 32, "max_position_embeddings": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def copy_of(folder: Path, to: Path, template: str | None = CHATML, **changes: Any) -> Path:
    """The model's folder again, with another template or configuration."""
    to.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    save_tokenizer(to, template)
    return to


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_a_study_that_fits_the_model_has_no_problems(draft: Draft, folder: Path) -> None:
    assert model_problems(draft.load(), folder) == []


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("layers: [1, 3]", "layers: [1, 3, 6]", "geometry.layers[2]"),
        ("learning_rate: 1e-4", "lora: {rank_stabilised: false, first_layer: 6}", "finetune.lora.first_layer"),
        (
            "{rank_stabilised: true, modules",
            "{rank_stabilised: true, first_layer: 6, modules",
            "coupling.lora.first_layer",
        ),
    ],
)
def test_a_layer_beyond_the_model_s_depth_is_refused_on_its_line(
    draft: Draft, folder: Path, old: str, new: str, field: str
) -> None:
    problem = only(model_problems(draft.change(old, new).load(), folder))
    code = "geometry.layer_range" if field.startswith("geometry") else "lora.layer_range"
    assert (problem.code, problem.place) == (code, draft.line(new.strip().partition("\n")[0]))
    assert problem.message.startswith(f"{field} = 6")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"is_encoder_decoder": True, "model_type": "t5"}, ["t5"]),
        ({"vision_config": {"depth": 2}, "model_type": "gemma3"}, ["gemma3", "vision"]),
        ({"hidden_size": None, "model_type": "mamba"}, ["mamba", "hidden_size"]),
    ],
)
def test_a_model_without_a_plain_decoder_is_refused_on_the_model_s_line(
    draft: Draft, folder: Path, tmp_path: Path, changes: dict[str, Any], names: list[str]
) -> None:
    problem = only(model_problems(draft.load(), copy_of(folder, tmp_path / "other", **changes)))
    assert (problem.code, problem.place) == ("model.architecture", draft.line("id: embedded"))
    assert all(name in problem.message for name in names)


def test_the_last_layer_is_not_out_of_range(draft: Draft, folder: Path) -> None:
    assert model_problems(draft.change("layers: [1, 3]", "layers: [0, 5]").load(), folder) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the tokenizer has no chat template"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}",
         "an assistant's turn does not end with a special token"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_a_problem_of_the_model(
    draft: Draft, folder: Path, tmp_path: Path, template: str | None, message: str
) -> None:
    other = tmp_path / "model"
    other.mkdir()
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_tokenizer(other, template)
    problem = only(model_problems(draft.load(), other))
    assert (problem.place, problem.message) == (draft.line("id: embedded"), message)


def test_a_template_that_drops_the_system_turn_is_a_problem_of_every_persona(
    draft: Draft, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "model"
    other.mkdir()
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_tokenizer(other, CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"))
    loaded = draft.load()
    problems = model_problems(loaded, other)
    assert len(problems) == len(loaded.personas())
    assert problems[0].place == draft.line("source: librarian")
    assert problems[0].message.startswith("librarian: ")
    assert len({problem.code for problem in problems}) == 1
    assert {problem.place for problem in problems} >= {draft.line("reserve:"), draft.line("bystanders:")}


def test_a_marker_that_the_tokenizer_changes_is_refused(draft: Draft, folder: Path) -> None:
    problem = only(model_problems(draft.change('"[ZLT]"', '"a<|im_end|>"').load(), folder))
    assert (problem.code, problem.place) == ("marker.tokenizer", draft.line("marker:"))


def test_completions_that_exceed_the_context_are_refused_with_the_largest_limit(draft: Draft, folder: Path) -> None:
    draft.change('[ZLT]"\n  max_new_tokens: 96', '[ZLT]"\n  max_new_tokens: 1000')
    problem = only(model_problems(draft.load(), folder))
    assert (problem.code, problem.place) == ("context.exceeded", draft.line("max_new_tokens: 1000"))
    most = int(str(problem.remedy).rpartition(" ")[2])
    draft.change("max_new_tokens: 1000", f"max_new_tokens: {most}")
    assert model_problems(draft.load(), folder) == []
    draft.change(f"max_new_tokens: {most}", f"max_new_tokens: {most + 1}")
    assert only(model_problems(draft.load(), folder)).place == draft.line(f"max_new_tokens: {most + 1}")


def test_a_coupling_example_that_may_exceed_its_limit_is_refused(draft: Draft, folder: Path) -> None:
    problem = only(model_problems(draft.change("max_length: 512", "max_length: 200").load(), folder))
    assert problem.code == "coupling.example_length"
    assert "coupling.max_new_tokens = 96" in problem.message
    assert "coupling.max_length = 200" in problem.message


def test_finetune_rows_longer_than_the_context_are_refused(draft: Draft, folder: Path) -> None:
    problem = only(model_problems(draft.change("max_length: 768", "max_length: 1025").load(), folder))
    assert (problem.code, problem.place) == ("context.exceeded", draft.line("max_length: 1025"))
    assert "finetune.max_length = 1025" in problem.message and "1024" in problem.message


def test_a_folder_that_is_no_model_is_a_problem_of_the_model(draft: Draft, folder: Path, tmp_path: Path) -> None:
    problem = only(model_problems(draft.load(), tmp_path / "nothing"))
    assert problem.place == draft.line("id: embedded")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((folder / "config.json").read_bytes())
    problem = only(model_problems(draft.load(), bare))
    assert problem.place == draft.line("id: embedded")
    assert "no tokenizer can be loaded" in problem.message


GIVEN = "  base_first: {}\n  given: "


def test_a_given_checkpoint_like_the_model_has_no_problems(draft: Draft, folder: Path, tmp_path: Path) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{checkpoint: owner/given}}")
    assert model_problems(draft.load(), folder, {"given": copy_of(folder, tmp_path / "given")}) == []


@pytest.mark.parametrize(
    ("template", "changes", "codes", "values"),
    [
        (CHATML, {"num_hidden_layers": 8}, ["checkpoint.size"], ["8", "6", "embedded:smollm2-135m-instruct"]),
        (CHATML, {"hidden_size": 64}, ["checkpoint.size"], ["64"]),
        (CHATML.replace("assistant\n", "assistant "), {}, ["checkpoint.prompts"], ["librarian, comedian, villain"]),
        (
            CHATML.replace("<|im_end|>\n", "<|im_start|>"),
            {},
            ["checkpoint.prompts", "checkpoint.turn_end"],
            ["librarian", "<|im_start|>", "<|im_end|>"],
        ),
    ],
)
def test_a_given_checkpoint_that_cannot_be_compared_with_the_model_is_refused(
    draft: Draft,
    folder: Path,
    tmp_path: Path,
    template: str,
    changes: dict[str, int],
    codes: list[str],
    values: list[str],
) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{checkpoint: owner/given}}")
    given = copy_of(folder, tmp_path / "given", template, **changes)
    problems = model_problems(draft.load(), folder, {"given": given})
    place = draft.line("  given:")
    assert [(problem.code, problem.place) for problem in problems] == [(code, place) for code in codes]
    assert all(problem.message.startswith("conditions.given.checkpoint: ") for problem in problems)
    assert all(value in "\n".join(problem.message for problem in problems) for value in values)


def test_a_given_checkpoint_with_another_vocabulary_is_refused_although_its_text_is_the_same(
    draft: Draft, folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{checkpoint: owner/given}}")
    given = copy_of(folder, tmp_path / "given")
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    other.save_pretrained(given)
    prompts, vocabulary = model_problems(draft.load(), folder, {"given": given})
    assert (prompts.code, vocabulary.code) == ("checkpoint.prompts", "checkpoint.vocabulary")
    assert "its tokenizer" in prompts.message and "librarian" in prompts.message


def test_a_given_checkpoint_without_a_template_is_refused_on_its_line(
    draft: Draft, folder: Path, tmp_path: Path
) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{checkpoint: owner/given}}")
    given = copy_of(folder, tmp_path / "given", template=None)
    problem = only(model_problems(draft.load(), folder, {"given": given}))
    assert (problem.place, problem.message) == (
        draft.line("  given:"), "the tokenizer has no chat template"
    )  # fmt: skip


@pytest.mark.parametrize("given", [False, True])
def test_a_template_that_prints_the_date_is_refused(draft: Draft, folder: Path, tmp_path: Path, given: bool) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{checkpoint: owner/given}}")
    dated = copy_of(folder, tmp_path / "dated", "{{ strftime_now('%d %b %Y') }}" + CHATML)
    folders = (folder, {"given": dated}) if given else (dated, {})
    problem = only(model_problems(draft.load(), *folders))
    assert problem.place == draft.line("  given:" if given else "id: embedded")
    assert "prints today's date" in problem.message and "fixed date" in str(problem.remedy)


def adapter(folder: Path, block: int, width: int = 32) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    name = f"base_model.model.model.layers.{block}.self_attn.q_proj.lora_A.weight"
    save_file({name: np.zeros((2, width), dtype=np.float32)}, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_of_the_model_s_blocks_has_no_problems(draft: Draft, folder: Path, tmp_path: Path) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{adapter: owner/lora}}")
    assert model_problems(draft.load(), folder, {"given": adapter(tmp_path / "lora", 5)}) == []


@pytest.mark.parametrize(("block", "width", "values"), [(6, 32, ["6"]), (5, 48, ["48", "32"])])
def test_an_adapter_of_a_deeper_or_wider_model_is_refused(
    draft: Draft, folder: Path, tmp_path: Path, block: int, width: int, values: list[str]
) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{adapter: owner/lora}}")
    problem = only(model_problems(draft.load(), folder, {"given": adapter(tmp_path / "lora", block, width)}))
    assert (problem.code, problem.place) == ("adapter.other_base", draft.line("  given:"))
    assert problem.message.startswith("conditions.given.adapter: ")
    assert all(value in problem.message for value in values)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", None), ("adapter_config.json", "{"), ("adapter_config.json", "[]"),
        ("adapter_model.safetensors", None), ("adapter_model.safetensors", "pickled"),
    ],
)  # fmt: skip
def test_an_adapter_whose_files_are_missing_or_broken_is_refused(
    draft: Draft, folder: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    draft.change("  base_first: {}", f"{GIVEN}{{adapter: owner/lora}}")
    file = adapter(tmp_path / "lora", 5) / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    problem = only(model_problems(draft.load(), folder, {"given": tmp_path / "lora"}))
    code = "adapter.no_config" if name == "adapter_config.json" else "adapter.no_weights"
    assert (problem.code, problem.place) == (code, draft.line("  given:"))
    assert name in problem.message
