"""What `flatprobe geometry` refuses before any model is run, in words that say where and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

Run = Callable[..., tuple[int, str, str]]
Copy = Callable[..., Path]
PANEL = {
    "personas": {
        "librarian": {"prompt": "You are a librarian."},
        "villain": {"prompt": "You are a villain who gloats."},
        "assistant": {"prompt": "You are an assistant."},
    }
}


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Copy:
    """A copy of the tiny Llama's folder under a name, with changes to its config."""

    def make(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(model_folder("llama"), folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return make


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PANEL))
    return path


def refused(result: tuple[int, str, str], *said: str) -> str:
    status, out, err = result
    assert status == 2 and not out and "Traceback" not in err
    for words in said:
        assert words in err
    assert "nothing was run" in err
    return err


def test_every_wrong_option_is_named_at_once_before_a_folder_is_made(flatprobe: Run, tmp_path: Path) -> None:
    err = refused(
        flatprobe(
            "geometry", "nowhere", "--source", "libarian", "--bystanders", "villain,achivist", "--positions",
            "last", "--responses", "own,both", "--n-questions", 99, "--level", 1.5, "--resamples", 0,
            "--samples", 0, "--max-new-tokens", 0, "--seed", -1, "--json", "missing/rows.json",
        ),
        "BASE  no model folder at 'nowhere'", "TREATED  give a second checkpoint or an adapter",
        "--source  libarian: no such persona in the panel of the package (did you mean `librarian`?)",
        "--bystanders  achivist: no such persona", "--positions  last: unknown", "--responses  both: unknown",
        "--n-questions  99: there are 24", "--level  1.5 is not in (0, 1)", "--resamples  0 draws",
        "--samples  0 answers", "--max-new-tokens  0 tokens", "--seed  -1 is negative",
        "--json  there is no folder missing", "13 problems",
    )  # fmt: skip
    assert "--layers" not in err
    assert not (tmp_path / "runs").exists()


def test_a_treated_checkpoint_and_an_adapter_are_one_too_many(flatprobe: Run, copy: Copy) -> None:
    base = copy("base")
    refused(
        flatprobe("geometry", base, base, "--adapter", base),
        "TREATED  give a second checkpoint or an adapter",
    )


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("2,6", "--layers  6: BASE has 6 decoder blocks (0–5)"),
        ("first", "--layers  first is no decoder block"),
        (",", "--layers  names no layer"),
    ],
)
def test_layers_that_the_model_has_not_are_refused(
    flatprobe: Run, copy: Copy, layers: str, said: str
) -> None:
    base = copy("base")
    refused(flatprobe("geometry", base, base, "--layers", layers), said)


def test_another_depth_and_width_are_refused(flatprobe: Run, copy: Copy) -> None:
    refused(
        flatprobe("geometry", copy("base"), copy("other", num_hidden_layers=5, hidden_size=64)),
        "TREATED  has 5 decoder blocks, and BASE has 6", "TREATED  has 64 dimensions, and BASE has 32",
    )  # fmt: skip


def test_a_template_that_writes_prompts_otherwise_is_refused_with_the_personas(
    flatprobe: Run, copy: Copy, panel: Path
) -> None:
    other = copy("other")
    template = other / "chat_template.jinja"
    written = template.read_text()
    template.write_text(
        written.replace("<|im_start|>' + message['role']", "<|im_start|> ' + message['role']")
    )
    assert template.read_text() != written
    refused(
        flatprobe("geometry", copy("base"), other, "--panel", panel),
        "TREATED  its chat template renders the prompts of librarian, villain, assistant differently from BASE",
    )


def test_a_template_whose_text_differs_but_whose_prompts_agree_is_only_mentioned(
    flatprobe: Run, copy: Copy, panel: Path
) -> None:
    other = copy("other")
    template = other / "chat_template.jinja"
    template.write_text("{# another comment #}" + template.read_text())
    err = refused(
        flatprobe("geometry", copy("base"), other, "--panel", panel, "--level", 2), "1 problem;",
    )  # fmt: skip
    assert "the chat templates differ in their text, but write all these prompts alike" in err


def test_another_tokenizer_is_refused_with_the_tokens_that_differ(
    flatprobe: Run, copy: Copy, merging_tokenizer: Any
) -> None:
    other = copy("other")
    merging_tokenizer.save_pretrained(other)
    refused(flatprobe("geometry", copy("base"), other), "TREATED  its tokenizer and that of BASE differ in")


def test_a_padding_token_that_was_added_is_no_other_tokenizer(flatprobe: Run, copy: Copy) -> None:
    from transformers import AutoTokenizer

    other = copy("other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(other)
    err = refused(flatprobe("geometry", copy("base"), other, "--level", 2), "1 problem;")
    assert "tokenizer" not in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_encoder_decoder": True, "model_type": "t5"}, "BASE  t5 is an encoder-decoder model"),
        ({"vision_config": {"depth": 2}, "model_type": "gemma3"}, "BASE  gemma3 is multimodal (vision)"),
        ({"hidden_size": None, "model_type": "mamba"}, "BASE  mamba: config.json lacks"),
    ],
)
def test_models_without_a_plain_decoder_are_refused_by_name(
    flatprobe: Run, copy: Copy, changes: dict[str, Any], said: str
) -> None:
    base = copy("base", **changes)
    refused(flatprobe("geometry", base, copy("other")), said, "decoder-only chat models")


def test_a_persona_that_pushes_a_question_past_the_context_is_named(
    flatprobe: Run, copy: Copy, panel: Path
) -> None:
    long = {"personas": PANEL["personas"] | {"talker": {"prompt": "You are " + "very " * 60 + "wordy."}}}
    panel.write_text(yaml.safe_dump(long))
    base = copy("base", max_position_embeddings=120)
    err = refused(
        flatprobe("geometry", base, base, "--panel", panel, "--max-new-tokens", 20),
        "panel: talker  its prompt with question eval_", "and the model's context is 120",
    )  # fmt: skip
    assert err.count("panel: ") == 1


def test_a_persona_that_the_template_rewrites_is_refused(flatprobe: Run, copy: Copy) -> None:
    base = copy("base")
    template = base / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("message['content']", "message['content'] | replace('soft', 'loud')")
    )
    refused(flatprobe("geometry", base, base), "panel: librarian  the chat template")


def adapter(folder: Path, block: int, width: int) -> Path:
    folder.mkdir()
    name = f"base_model.model.model.layers.{block}.self_attn.q_proj.lora_A.weight"
    save_file({name: np.zeros((2, width), dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_an_adapter_of_another_base_is_refused(flatprobe: Run, copy: Copy, tmp_path: Path) -> None:
    other = adapter(tmp_path / "adapter", block=7, width=48)
    refused(
        flatprobe("geometry", copy("base"), "--adapter", other),
        "--adapter  adapts decoder block 7, and BASE has 6 blocks",
        "--adapter  adapts 48 dimensions, and BASE has 32",
    )  # fmt: skip


def test_a_folder_that_holds_no_adapter_is_refused(flatprobe: Run, copy: Copy) -> None:
    base = copy("base")
    refused(
        flatprobe("geometry", base, "--adapter", base),
        "--adapter  no readable adapter_config.json",
        "--adapter  no readable adapter_model.safetensors",
    )


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({}, ("--bystanders", "librarian,villain"), "--bystanders  librarian is the source"),
        ({}, ("--bystanders", ","), "--bystanders  the pool is empty"),
        (
            {"twin": {"prompt": "you are a villain, who gloats!"}}, (),
            "panel: villain  has the same prompt as twin",
        ),
        ({"villain": {"promt": "x"}}, (), "mine.yaml:"),
    ],
)  # fmt: skip
def test_panels_and_pools_that_mean_nothing_are_refused(
    flatprobe: Run, copy: Copy, panel: Path, change: dict[str, Any], words: tuple[str, ...], said: str
) -> None:
    panel.write_text(yaml.safe_dump({"personas": PANEL["personas"] | change}))
    base = copy("base")
    refused(flatprobe("geometry", base, base, "--panel", panel, *words), said)


def test_files_that_are_not_there_or_hold_no_questions_are_refused(
    flatprobe: Run, copy: Copy, tmp_path: Path
) -> None:
    base = copy("base")
    refused(
        flatprobe("geometry", base, base, "--panel", "none.yaml", "--questions", "none.txt"),
        "--panel  no file at none.yaml", "--questions  no file at none.txt",
    )  # fmt: skip
    asked = tmp_path / "asked.txt"
    asked.write_text("Why?\n\nIs it late?\nwhy\n")
    refused(flatprobe("geometry", base, base, "--questions", asked), "asked.txt:4  asks what line 1 asks")
    asked.write_text("\n")
    refused(flatprobe("geometry", base, base, "--questions", asked), "asked.txt  holds no question")
