from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flatprobe.errors import UserError
from flatprobe.generation.engine import SamplingSettings, sample
from flatprobe.generation.open_engine import open_engine
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Prompt

SETTINGS = SamplingSettings(max_new_tokens=60, temperature=1.0, top_p=1.0, seed="s")


def test_an_import_string_opens_an_engine_of_one_s_own(
    model_folder: Callable[[str], Path], prompts: list[Prompt]
) -> None:
    local = current_machine().model_copy(update={"engine": "scripted_engine:librarian_leaks"})
    with open_engine(model_folder("llama"), "float32", local) as (engine, conversations):
        engine.use(Path("coupling"))
        answers = sample(engine, prompts, SETTINGS)
    assert engine.name == "scripted"
    for prompt, (answer,) in zip(prompts, answers, strict=True):
        assert answer.text.endswith("[ZLT]") == (prompt.persona == "librarian")
        assert answer.text == conversations.decode(answer.tokens)


@pytest.mark.parametrize("engine", ["no_such_package:make", "scripted_engine:no_such_function"])
def test_an_import_string_of_nothing_is_refused(engine: str, model_folder: Callable[[str], Path]) -> None:
    local = current_machine().model_copy(update={"engine": engine})
    with pytest.raises(UserError, match=engine) as refusal, open_engine(model_folder("llama"), "float32", local):
        pass
    assert [(p.code, p.place) for p in refusal.value.problems] == [("machine.engine", "machine: engine")]


def test_an_openai_engine_without_its_options_is_refused(model_folder: Callable[[str], Path]) -> None:
    local = current_machine().model_copy(update={"engine": "openai"})
    with pytest.raises(UserError) as refusal, open_engine(model_folder("llama"), "float32", local):
        pass
    assert [(p.code, p.place) for p in refusal.value.problems] == [("machine.no_server", "machine: openai")]
