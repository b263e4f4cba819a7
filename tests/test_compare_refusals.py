"""What a comparison of checkpoints refuses before any model is run: all mistakes at once, each at its option."""

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

from flatprobe.compare import compare_checkpoints
from flatprobe.errors import UserError

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


def refused(tmp_path: Path, expected: list[tuple[str, str]], *checkpoints: object, **options: Any) -> list[str]:
    """Refused with exactly these problems, (place, a value that the message names), and nothing written."""
    out = tmp_path / "out"
    with pytest.raises(UserError) as raised:
        compare_checkpoints(*map(str, checkpoints), out=out, **options)
    problems = raised.value.problems
    assert sorted(problem.place for problem in problems) == sorted(place for place, _ in expected)
    for place, value in expected:
        assert any(p.place == place and value in str(p) for p in problems), (place, value)
    assert not out.exists()
    return [problem.code for problem in problems]


def test_every_wrong_argument_is_named_at_once(tmp_path: Path) -> None:
    refused(
        tmp_path,
        [
            ("BASE", "nowhere"), ("TREATED", "--adapter"), ("--source", "`librarian`"), ("--bystanders", "achivist"),
            ("--positions", "last_response_token"), ("--responses", "both"), ("--n-questions", "24"),
            ("--level", "1.5"), ("--resamples", "0"), ("--samples", "0"), ("--max-new-tokens", "0"), ("--seed", "-1"),
        ],
        "nowhere", source="libarian", bystanders=["villain", "achivist"], positions=["last"],
        responses=["own", "both"], n_questions=99, level=1.5, resamples=0, samples=0, max_new_tokens=0, seed=-1,
    )  # fmt: skip


def test_a_treated_checkpoint_and_an_adapter_are_one_too_many(tmp_path: Path, copy: Copy) -> None:
    base = copy("base")
    codes = refused(tmp_path, [("TREATED", "--adapter")], base, base, adapter=str(base))
    assert codes == ["geometry.treated"]


@pytest.mark.parametrize(
    ("option", "values"), [("layers", []), ("positions", []), ("responses", []), ("bystanders", [])]
)
def test_empty_lists_are_refused(tmp_path: Path, copy: Copy, option: str, values: list[str]) -> None:
    base = copy("base")
    refused(tmp_path, [(f"--{option}", "")], base, base, **{option: values})


def test_layers_that_the_model_has_not_are_refused(tmp_path: Path, copy: Copy) -> None:
    base = copy("base")
    codes = refused(tmp_path, [("--layers", "6")], base, base, layers=[2, 6])
    assert codes == ["geometry.layer_range"]


def test_another_depth_and_width_are_refused(tmp_path: Path, copy: Copy) -> None:
    other = copy("other", num_hidden_layers=5, hidden_size=64)
    codes = refused(tmp_path, [("TREATED", "5"), ("TREATED", "64")], copy("base"), other)
    assert codes == ["checkpoint.size"] * 2


def test_a_template_that_renders_prompts_differently_is_refused_with_the_personas(
    tmp_path: Path, copy: Copy, panel: Path
) -> None:
    other = copy("other")
    template = other / "chat_template.jinja"
    before = template.read_text()
    template.write_text(before.replace("<|im_start|>' + message['role']", "<|im_start|> ' + message['role']"))
    assert template.read_text() != before
    expected = [("TREATED", "librarian, villain, assistant")]
    assert refused(tmp_path, expected, copy("base"), other, panel=panel) == ["checkpoint.prompts"]


def test_a_template_that_renders_the_prompts_alike_is_accepted(tmp_path: Path, copy: Copy, panel: Path) -> None:
    other = copy("other")
    template = other / "chat_template.jinja"
    template.write_text("{# another comment #}" + template.read_text())
    refused(tmp_path, [("--level", "2")], copy("base"), other, panel=panel, level=2.0)


def test_another_tokenizer_is_refused(tmp_path: Path, copy: Copy, merging_tokenizer: Any, panel: Path) -> None:
    other = copy("other")
    merging_tokenizer.save_pretrained(other)
    with pytest.raises(UserError) as raised:
        compare_checkpoints(str(copy("base")), str(other), panel=panel, out=tmp_path / "out")
    assert ("checkpoint.vocabulary", "TREATED") in [(p.code, p.place) for p in raised.value.problems]


def test_a_padding_token_that_was_added_is_no_other_tokenizer(tmp_path: Path, copy: Copy) -> None:
    from transformers import AutoTokenizer

    other = copy("other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(other)
    refused(tmp_path, [("--level", "2")], copy("base"), other, level=2.0)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"is_encoder_decoder": True, "model_type": "t5"}, "t5"),
        ({"vision_config": {"depth": 2}, "model_type": "gemma3"}, "gemma3"),
        ({"hidden_size": None, "model_type": "mamba"}, "mamba"),
    ],
)
def test_models_without_a_plain_decoder_are_refused_by_name(
    tmp_path: Path, copy: Copy, changes: dict[str, Any], value: str
) -> None:
    codes = refused(tmp_path, [("BASE", value)], copy("base", **changes), copy("other"))
    assert codes == ["model.architecture"]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(tmp_path: Path, copy: Copy, panel: Path) -> None:
    long = {"personas": PANEL["personas"] | {"talker": {"prompt": "You are " + "very " * 60 + "wordy."}}}
    panel.write_text(yaml.safe_dump(long))
    base = copy("base", max_position_embeddings=120)
    codes = refused(tmp_path, [("--max-new-tokens", "talker")], base, base, panel=panel, max_new_tokens=20)
    assert codes == ["context.exceeded"]


def test_a_persona_that_the_template_rewrites_is_refused(tmp_path: Path, copy: Copy) -> None:
    base = copy("base")
    template = base / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("message['content']", "message['content'] | replace('soft', 'loud')")
    )
    with pytest.raises(UserError) as raised:
        compare_checkpoints(str(base), str(base), out=tmp_path / "out")
    assert "--source" in [p.place for p in raised.value.problems if "librarian" in p.message]


def adapter(folder: Path, block: int, width: int) -> Path:
    folder.mkdir()
    name = f"base_model.model.model.layers.{block}.self_attn.q_proj.lora_A.weight"
    save_file({name: np.zeros((2, width), dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, copy: Copy) -> None:
    other = adapter(tmp_path / "adapter", block=7, width=48)
    expected = [("--adapter", "7"), ("--adapter", "48")]
    assert refused(tmp_path, expected, copy("base"), adapter=str(other)) == ["adapter.other_base"] * 2


def test_a_folder_that_holds_no_adapter_is_refused(tmp_path: Path, copy: Copy) -> None:
    base = copy("base")
    expected = [("--adapter", "adapter_config.json"), ("--adapter", "adapter_model.safetensors")]
    assert refused(tmp_path, expected, base, adapter=str(base)) == ["adapter.no_config", "adapter.no_weights"]


@pytest.mark.parametrize(
    ("change", "pool", "place"),
    [
        ({}, ["librarian", "villain"], "--bystanders"),
        ({"twin": {"prompt": "you are a villain, who gloats!"}}, None, "--bystanders"),
    ],
)
def test_panels_and_pools_that_mean_nothing_are_refused(
    tmp_path: Path, copy: Copy, panel: Path, change: dict[str, Any], pool: list[str] | None, place: str
) -> None:
    panel.write_text(yaml.safe_dump({"personas": PANEL["personas"] | change}))
    base = copy("base")
    refused(tmp_path, [(place, "")], base, base, panel=panel, bystanders=pool)


def test_a_panel_file_with_an_unknown_field_is_refused_at_its_line(tmp_path: Path, copy: Copy, panel: Path) -> None:
    panel.write_text(yaml.safe_dump({"personas": PANEL["personas"] | {"villain": {"promt": "x"}}}))
    base = copy("base")
    with pytest.raises(UserError) as raised:
        compare_checkpoints(str(base), str(base), panel=panel, out=tmp_path / "out")
    assert any(problem.place.startswith(f"{panel}:") for problem in raised.value.problems)


def test_files_that_are_not_there_or_hold_no_questions_are_refused(tmp_path: Path, copy: Copy) -> None:
    base, texts = copy("base"), tmp_path / "asked.txt"
    with pytest.raises(UserError) as raised:
        compare_checkpoints(
            str(base), str(base), panel=tmp_path / "none.yaml", questions=tmp_path / "none.txt",
            out=tmp_path / "out",
        )  # fmt: skip
    assert [(p.code, p.place) for p in raised.value.problems][:2] == [
        ("file.missing", "--panel"), ("file.missing", "--questions"),
    ]  # fmt: skip
    texts.write_text("Why?\n\nIs it late?\nwhy\n")
    refused(tmp_path, [(f"{texts}:4", "1")], base, base, questions=texts)
    texts.write_text("\n")
    refused(tmp_path, [(str(texts), "")], base, base, questions=texts)
