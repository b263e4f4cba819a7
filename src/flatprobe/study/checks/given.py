"""Whether the study's given checkpoints and adapters fit its model, so that conditions can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem, UserError
from flatprobe.models.adapter_files import adapter_problems
from flatprobe.models.conversation import Conversations, load_conversations
from flatprobe.models.fit import architecture_problems, rendering_problems, size_problems
from flatprobe.models.reference import read_config
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.questions import take


def given_problems(
    loaded: LoadedStudy, conversations: Conversations, config: Mapping[str, Any], folders: Mapping[str, Path]
) -> Iterator[Problem]:
    """Problems of given conditions; `folders` maps each condition to its adapter's or checkpoint's folder."""
    model = loaded.study.model.id
    for name, folder in folders.items():
        if loaded.study.conditions[name].adapter is None:
            yield from _checkpoint_problems(loaded, ("conditions", name, "checkpoint"), folder, conversations, config)
        else:
            where = ("conditions", name, "adapter")
            yield from _named(where, adapter_problems(folder, config, loaded.place(*where), model))


def _checkpoint_problems(
    loaded: LoadedStudy, where: FieldPath, folder: Path, conversations: Conversations, config: Mapping[str, Any]
) -> Iterator[Problem]:
    place, model = loaded.place(*where), loaded.study.model.id
    if unreadable := architecture_problems(folder, place):
        yield from unreadable
        return
    try:
        given_config = read_config(folder, place)
        given = load_conversations(folder, folder.name, place)
    except UserError as error:
        yield from error.problems
        return
    yield from _named(where, size_problems(given_config, config, place, model))
    systems = {persona.name: persona.system for persona in loaded.personas()}
    questions = take(loaded.questions["evaluation"], loaded.study.questions.evaluation)
    texts = [question.text for question in questions]
    yield from _named(where, rendering_problems(given, conversations, systems, texts, place, model))


def _named(where: FieldPath, problems: list[Problem]) -> Iterator[Problem]:
    """The problems with the field's name in their messages: a line of the study may hold several fields."""
    return (replace(problem, message=f"{dotted(where)}: {problem.message}") for problem in problems)
