"""A study with the files it names, and the line of every field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatprobe.config.yaml_file import FieldPath, dotted, place
from flatprobe.errors import Problem
from flatprobe.study.panel import Persona, PersonaEntry, assign_roles
from flatprobe.study.questions import Question, SetName
from flatprobe.study.schema import Study


@dataclass(frozen=True)
class LoadedStudy:
    """What :func:`flatprobe.study.load.load_study` returns. It passed every check that needs no model."""

    study: Study
    path: Path
    """The study's file, as the user gave it."""
    lines: Mapping[FieldPath, int]
    """Field to its 1-based line. Fields left at their defaults are absent."""
    entries: Mapping[str, PersonaEntry]
    """Every persona of the panel file."""
    questions: Mapping[SetName, tuple[Question, ...]]
    """Every question of the questions file, by set, without suffix."""
    notices: tuple[str, ...] = ()
    """What a reader of the result should know, although nothing is wrong."""

    @property
    def base(self) -> Path:
        """The study file's folder. Relative paths of the study start here."""
        return self.path.parent

    def place(self, *where: str | int) -> str:
        """`file:line` of a field, or of the nearest enclosing field that the file gives."""
        return place(self.path, self.lines, where)

    def problem(self, code: str, where: FieldPath, message: str, remedy: str | None = None) -> Problem:
        """A problem at a field's line."""
        return Problem(code, self.place(*where), message, remedy)

    def bad_value(self, code: str, where: FieldPath, value: object, message: str, remedy: str | None = None) -> Problem:
        """A problem with a field's value. It reads `geometry.layers[2] = 36: message`."""
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return self.problem(code, where, f"{dotted(where)} = {text}: {message}", remedy)

    def personas(self) -> tuple[Persona, ...]:
        """The evaluated panel, source first."""
        return assign_roles(self.study.panel, self.entries, self.study.seeds[0])
