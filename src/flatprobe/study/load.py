"""Loads a study. Reports every problem at once, each with file and line, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from flatprobe.config.validation import examine, validate
from flatprobe.config.yaml_file import read_document
from flatprobe.errors import Problem, UserError
from flatprobe.study.checks.every_check import study_problems
from flatprobe.study.checks.questions import file_problems
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.notices import notices
from flatprobe.study.panel import PanelFile, PersonaEntry, panel_path
from flatprobe.study.questions import SET_NAMES, Question, QuestionsFile, SetName, questions_path
from flatprobe.study.schema import Study

__all__ = ["LoadedStudy", "examine_study", "load_study"]


def load_study(path: Path) -> LoadedStudy:
    """Read a study, its panel and its questions, and check everything that needs no model.

    Raises:
        UserError: all problems.
    """
    loaded, problems = examine_study(path)
    if problems or loaded is None:
        raise UserError(problems)
    return loaded


def examine_study(path: Path) -> tuple[LoadedStudy | None, list[Problem]]:
    """The study as far as it can be read, and all its problems that show without the model.

    Checks across fields and files run only if the study fits the schema, apart from unknown fields.

    Raises:
        UserError: the file cannot be read at all.
    """
    document = read_document(path)
    study, problems = examine(document, Study)
    if study is None:
        return None, problems
    loaded = LoadedStudy(
        study=study,
        path=path,
        lines=document.lines,
        entries=read_panel_file(panel_path(study.panel, path.parent), document.place("panel", "file"), problems),
        questions=read_questions_file(
            questions_path(study.questions, path.parent), document.place("questions", "file"), problems
        ),
    )
    problems += study_problems(loaded)
    return dataclasses.replace(loaded, notices=tuple(notices(loaded)) if not problems else ()), problems


def read_panel_file(path: Path, place: str, problems: list[Problem]) -> Mapping[str, PersonaEntry]:
    """The personas of the panel file. If it cannot be read: none, and its problems are added to `problems`."""
    if not path.is_file():
        remedy = "leave it out to use the package's panel"
        problems.append(Problem("file.missing", place, f"no panel file at {path}", remedy))
        return {}
    try:
        return validate(read_document(path), PanelFile).personas
    except UserError as error:
        problems += error.problems
        return {}


def read_questions_file(path: Path, place: str, problems: list[Problem]) -> Mapping[SetName, tuple[Question, ...]]:
    """The sets of the questions file. If it cannot be read: none, and its problems are added to `problems`."""
    if not path.is_file():
        remedy = "leave it out to use the package's sets"
        problems.append(Problem("file.missing", place, f"no questions file at {path}", remedy))
        return {}
    try:
        content = read_document(path)
        file = validate(content, QuestionsFile)
    except UserError as error:
        problems += error.problems
        return {}
    sets: dict[SetName, tuple[Question, ...]] = {name: getattr(file, name) for name in SET_NAMES}
    problems += file_problems(content, sets)
    return sets
