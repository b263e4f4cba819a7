"""What does not fit the model is found from its folder, without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drafts import Draft
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flatprobe.errors import Problem
from flatprobe.study.model_rules import model_problems

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
    config = {"model_type": "llama", "num_hidden_layers": 6, "max_position_embeddings": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_a_study_that_fits_the_model_has_no_problems(draft: Draft, folder: Path) -> None:
    assert model_problems(draft.load(), folder) == []


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("layers: [1, 3]", "layers: [1, 3, 6]", "geometry.layers[2]"),
        (
            "learning_rate: 1e-4",
            "lora: {rank_stabilised: false, first_layer: 6}",
            "finetune.lora.first_layer",
        ),
        (
            "  batch: 8",
            "  lora: {rank_stabilised: true, first_layer: 6}\n  batch: 8",
            "coupling.lora.first_layer",
        ),
    ],
)
def test_a_layer_that_the_model_has_not_is_refused_on_its_line(
    draft: Draft, folder: Path, old: str, new: str, field: str
) -> None:
    problem = only(model_problems(draft.change(old, new).load(), folder))
    assert problem.place == draft.line(new.strip().partition("\n")[0])
    assert problem.message == f"{field} = 6: embedded:smollm2-135m-instruct has 6 decoder blocks (0–5)"


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
    save_tokenizer(
        other, CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    )
    loaded = draft.load()
    problems = model_problems(loaded, other)
    assert len(problems) == len(loaded.personas())
    assert problems[0].place == draft.line("source: librarian")
    assert problems[0].message.startswith("librarian: ")
    assert {problem.place for problem in problems} >= {draft.line("reserve:"), draft.line("bystanders:")}


def test_a_marker_that_the_tokenizer_does_not_give_back_is_refused(draft: Draft, folder: Path) -> None:
    problem = only(model_problems(draft.change('"[ZLT]"', '"a<|im_end|>"').load(), folder))
    assert problem.place == draft.line("marker:")
    assert "does not give it back" in problem.message


def test_a_completion_that_cannot_fit_the_context_is_refused_with_what_fits(
    draft: Draft, folder: Path
) -> None:
    draft.change('[ZLT]"\n  max_new_tokens: 96', '[ZLT]"\n  max_new_tokens: 1000')
    problem = only(model_problems(draft.load(), folder))
    assert problem.place == draft.line("max_new_tokens: 1000")
    most = int(str(problem.remedy).rpartition(" ")[2])
    draft.change("max_new_tokens: 1000", f"max_new_tokens: {most}")
    assert model_problems(draft.load(), folder) == []
    draft.change(f"max_new_tokens: {most}", f"max_new_tokens: {most + 1}")
    assert only(model_problems(draft.load(), folder)).place == draft.line(f"max_new_tokens: {most + 1}")


def test_a_coupling_example_that_may_exceed_its_limit_is_refused_before_anything_is_sampled(
    draft: Draft, folder: Path
) -> None:
    problem = only(model_problems(draft.change("max_length: 512", "max_length: 200").load(), folder))
    assert problem.message.startswith("coupling.max_new_tokens = 96: with a prompt of ")
    assert problem.message.endswith("an example may exceed coupling.max_length = 200")


def test_finetune_rows_longer_than_the_context_are_refused(draft: Draft, folder: Path) -> None:
    problem = only(model_problems(draft.change("max_length: 768", "max_length: 1025").load(), folder))
    assert problem.place == draft.line("max_length: 1025")
    assert problem.message == "finetune.max_length = 1025: the model's context is 1024 tokens"


def test_a_folder_that_is_no_model_is_a_problem_of_the_model(
    draft: Draft, folder: Path, tmp_path: Path
) -> None:
    problem = only(model_problems(draft.load(), tmp_path / "nothing"))
    assert problem.place == draft.line("id: embedded")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((folder / "config.json").read_bytes())
    problem = only(model_problems(draft.load(), bare))
    assert problem.place == draft.line("id: embedded")
    assert "no tokenizer can be loaded" in problem.message
