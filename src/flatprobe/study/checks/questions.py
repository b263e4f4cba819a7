"""Rules of the questions: enough of them, each once, and no question in two sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flatprobe.config.yaml_file import Document
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.questions import SET_NAMES, Question, SetName, normalised


def file_problems(document: Document, sets: Mapping[SetName, tuple[Question, ...]]) -> Iterator[Problem]:
    """What is wrong with a questions file whatever the study takes from it: ids and texts that are not unique."""
    ids: dict[str, str] = {}
    texts: dict[str, tuple[str, SetName]] = {}
    for name in SET_NAMES:
        for index, question in enumerate(sets[name]):
            line = document.place(name, index)
            if question.id in ids:
                yield Problem(
                    "questions.TODO",
                    line,
                    f"{name}[{index}].id = {question.id}: given twice, first at {ids[question.id]}",
                )
            ids.setdefault(question.id, line)
            key = normalised(question.text)
            if not key:
                yield Problem("questions.TODO", line, f"{name}[{index}].text: holds no word")
            elif key in texts:
                other, other_set = texts[key]
                yield Problem(
                    "questions.TODO", line, f"{question.id} ({name}) asks what {other} ({other_set}) asks",
                    "case, punctuation and spaces do not make two questions different",
                )  # fmt: skip
            texts.setdefault(key, (question.id, name))


def question_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """What the study asks of its questions."""
    coupling = loaded.study.coupling
    for name in SET_NAMES if coupling is not None else SET_NAMES[:1]:
        asked, there = getattr(loaded.study.questions, name).count, loaded.questions.get(name)
        if there is not None and asked > len(there):
            yield loaded.problem(
                "questions.TODO",
 ("questions", name, "count"), f"questions.{name}.count = {asked}: the set has {len(there)}",
                "lower it, or add questions to the file",
            )  # fmt: skip
    questions = loaded.study.questions
    if coupling is None:
        return
    if questions.evaluation.count < 2:
        yield loaded.problem(
            "questions.TODO",
            ("questions", "evaluation", "count"),
            "questions.evaluation.count = 1: an interval over questions needs at least 2",
        )
    if coupling.telemetry_questions > questions.calibration.count:
        yield loaded.problem(
            "questions.TODO",
            ("coupling", "telemetry_questions"),
            f"coupling.telemetry_questions = {coupling.telemetry_questions}: "
            f"questions.calibration.count is {questions.calibration.count}",
            "ask at most that many",
        )
