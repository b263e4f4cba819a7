from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatprobe.generation.stopping import StopText, end_tokens, eos_of_files
from flatprobe.models.load import Loaded, load_checkpoint

PIECES = ["[", "z", "Z", "L", "lt", "T", "]", "[ZL", "T]", "x", "[zlt]", "é", "\n\n"]


def decode(tokens: Sequence[int]) -> str:
    return "".join(PIECES[token] for token in tokens)


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=40), st.integers(1, 7))
def test_the_end_is_that_of_the_shortest_prefix_with_the_text_for_any_reading_steps(
    tokens: list[int], step: int
) -> None:
    stop = StopText("[Zlt]", decode)
    ends = [n for n in range(len(tokens) + 1) if "[zlt]" in decode(tokens[:n]).lower()]
    stopped = None
    for end in [*range(step, len(tokens), step), len(tokens)]:
        new = end - (end - 1) // step * step if end else 0
        stopped = stop.end(tokens[:end], new)
        if stopped is not None:
            break
    assert stopped == (ends[0] if ends else None)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mistral"])
def test_end_tokens_from_files_equal_those_of_the_loaded_model(
    family: str, model_folder: Callable[[str], Path], load: Callable[[str], Loaded]
) -> None:
    loaded = load(family)
    conversations, eos = loaded.conversations, loaded.model.generation_config.eos_token_id
    assert end_tokens(conversations, eos_of_files(model_folder(family))) == end_tokens(conversations, eos)


@pytest.mark.parametrize("eos", [7, [7, 9], None, "absent"])
def test_generation_settings_come_before_the_configuration(
    eos: int | list[int] | str | None, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    for path in model_folder("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = tmp_path / "generation_config.json"
    if eos == "absent":
        settings.unlink()
    else:
        settings.write_text(json.dumps({"eos_token_id": eos}))
    loaded = load_checkpoint(tmp_path, "float32", torch.device("cpu"))
    conversations, expected = loaded.conversations, loaded.model.generation_config.eos_token_id
    assert end_tokens(conversations, eos_of_files(tmp_path)) == end_tokens(conversations, expected)
