"""Loads a study. Reports every problem at once, each with file and line, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from flatprobe.config.validation import examine, validate
from flatprobe.config.yaml_file import Document, read_document
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
        entries=_read_panel(study, document, problems),
        questions=_read_questions(study, document, problems),
    )
    problems += study_problems(loaded)
    return dataclasses.replace(loaded, notices=tuple(notices(loaded)) if not problems else ()), problems


def _read_panel(study: Study, document: Document, problems: list[Problem]) -> Mapping[str, PersonaEntry]:
    """The personas of the panel file. If it cannot be read: none, and its problems are added to `problems`."""
    path = panel_path(study.panel, document.path.parent)
    if not path.is_file():
        where, remedy = document.place("panel", "file"), "null uses the package's panel"
        problems.append(Problem("file.missing", where, f"panel.file: no file at {path}", remedy))
        return {}
    try:
        return validate(read_document(path), PanelFile).personas
    except UserError as error:
        problems += error.problems
        return {}


def _read_questions(
    study: Study, document: Document, problems: list[Problem]
) -> Mapping[SetName, tuple[Question, ...]]:
    """The sets of the questions file. If it cannot be read: none, and its problems are added to `problems`."""
    path = questions_path(study.questions, document.path.parent)
    if not path.is_file():
        where, remedy = document.place("questions", "file"), "null uses the package's sets"
        problems.append(Problem("file.missing", where, f"questions.file: no file at {path}", remedy))
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
