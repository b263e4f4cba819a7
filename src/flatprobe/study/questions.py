"""Question sets: evaluation, coupling and calibration. No question stands in two sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from flatprobe.study import resources
from flatprobe.study.schema import Questions, QuestionSet

SetName = Literal["evaluation", "coupling", "calibration"]
SET_NAMES: tuple[SetName, ...] = ("evaluation", "coupling", "calibration")


class Question(BaseModel):
    """A question of a questions file, without the set's suffix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Literal["factual", "value"]
    text: str


class QuestionsFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluation: tuple[Question, ...]
    coupling: tuple[Question, ...]
    calibration: tuple[Question, ...]


def questions_path(questions: Questions, base: Path) -> Path:
    return base / questions.file if questions.file else resources.path("questions.yaml")


def read_questions(path: Path) -> Mapping[SetName, tuple[Question, ...]]:
    content = QuestionsFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    return {name: getattr(content, name) for name in SET_NAMES}


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces. Texts that are equal in this form are one question."""
    return " ".join(re.findall(r"\w+", text.lower()))


def take(questions: tuple[Question, ...], block: QuestionSet) -> tuple[Question, ...]:
    """The first `count` questions, each with the set's suffix."""
    suffix = f" {block.suffix}" if block.suffix else ""
    return tuple(q.model_copy(update={"text": q.text + suffix}) for q in questions[: block.count])
