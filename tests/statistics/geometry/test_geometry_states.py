"""Kinds of states, their one text form, and states read from a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from planted_states import KIND, LAYERS, PERSONAS, QUESTIONS, planted_states
from safetensors.numpy import save_file

from flatprobe.errors import UserError
from flatprobe.statistics.geometry.states import StateKind, States


def test_a_kind_of_states_survives_its_text_form() -> None:
    kind = StateKind("fixed", "last_response_token")
    assert str(kind) == "fixed.last_response_token" and StateKind.parse(str(kind)) == kind


@pytest.mark.parametrize("text", ["own", "own.", "last_response_token", "other.response_mean"])
def test_another_text_is_no_kind_of_states(text: str) -> None:
    with pytest.raises(ValueError, match="no kind of states"):
        StateKind.parse(text)


def test_states_are_read_from_the_artifact_of_a_run(tmp_path: Path) -> None:
    states = planted_states("base")
    save_file({str(KIND): states.h_PQLD, "own.all_mean": 2 * states.h_PQLD}, tmp_path / "states.safetensors")
    index = {"personas": PERSONAS, "questions": QUESTIONS, "layers": LAYERS}
    (tmp_path / "index.json").write_text(json.dumps(index))
    loaded = States.load(tmp_path, KIND, condition="base")
    assert (loaded.condition, loaded.personas, loaded.questions, loaded.layers) == ("base", PERSONAS, QUESTIONS, LAYERS)
    assert np.array_equal(loaded.h_PQLD, states.h_PQLD)


def test_without_any_question_states_are_refused() -> None:
    with pytest.raises(UserError) as raised:
        planted_states("base").without(QUESTIONS)
    assert [(problem.code, problem.place) for problem in raised.value.problems] == [
        ("states.no_question", "states of base")
    ]
