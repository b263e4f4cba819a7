"""Prompts and the context; tests/study/checks/test_model.py covers checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from flatprobe.errors import UserError
from flatprobe.models.conversation import Prompt
from flatprobe.models.fit import context_length, longest_turn, require_context_length

PROMPTS = {Prompt("librarian", None, "q1", "?"): [1] * 10, Prompt("villain", None, "q2", "?"): [1] * 12}


def test_the_context_is_read_from_files_and_from_loaded_configurations(tmp_path: Path) -> None:
    assert context_length({"max_position_embeddings": 512}) == 512
    assert context_length(LlamaConfig(max_position_embeddings=256)) == 256
    assert context_length({}) is None
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 128}}))
    assert require_context_length(tmp_path) == 128
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError) as refusal:
        require_context_length(tmp_path)
    assert [(p.code, p.place) for p in refusal.value.problems] == [("model.context_length", str(tmp_path))]


def test_the_longest_prompt_with_its_answer_must_fit_the_context() -> None:
    assert longest_turn(PROMPTS, 20, 32) == longest_turn(PROMPTS, 20, None) == 32
    assert longest_turn({}, 20, 1) == 1
    with pytest.raises(UserError, match=r"12.*20.*31") as refusal:
        longest_turn(PROMPTS, 20, 31)
    assert [(p.code, p.place) for p in refusal.value.problems] == [
        ("context.exceeded", "prompt of villain to question q2")
    ]
