"""Checks of the questions: there are enough, and no question stands in two sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flatprobe.config.yaml_file import Document
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.questions import SET_NAMES, Question, SetName, normalised


def file_problems(document: Document, sets: Mapping[SetName, tuple[Question, ...]]) -> Iterator[Problem]:
    """Ids and texts of a questions file that are not unique, whether or not the study uses them."""
    first_line: dict[str, str] = {}
    first_question: dict[str, tuple[str, SetName]] = {}
    for name in SET_NAMES:
        for index, question in enumerate(sets[name]):
            line = document.place(name, index)
            if question.id in first_line:
                yield Problem(
                    "questions.duplicate_id",
                    line,
                    f"{name}[{index}].id = {question.id}: given twice, first at {first_line[question.id]}",
                )
            first_line.setdefault(question.id, line)
            words = normalised(question.text)
            if not words:
                yield Problem("questions.empty_text", line, f"{name}[{index}].text: contains no word")
            elif words in first_question:
                other, other_set = first_question[words]
                yield Problem(
                    "questions.duplicate_text",
                    line,
                    f"{question.id} ({name}) asks the same as {other} ({other_set})",
                    "case, punctuation and spaces do not make two questions different",
                )
            first_question.setdefault(words, (question.id, name))


def question_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Question counts that the file or another setting cannot meet."""
    questions, coupling = loaded.study.questions, loaded.study.coupling
    for name in SET_NAMES if coupling is not None else SET_NAMES[:1]:
        count, available = getattr(questions, name).count, loaded.questions.get(name)
        if available is not None and count > len(available):
            yield loaded.bad_value(
                "questions.too_few",
                ("questions", name, "count"),
                count,
                f"the set has {len(available)}",
                "lower it, or add questions to the file",
            )
    if coupling is None:
        return
    if questions.evaluation.count < 2:
        yield loaded.bad_value(
            "questions.no_interval",
            ("questions", "evaluation", "count"),
            questions.evaluation.count,
            "an interval over questions needs at least 2",
        )
    if coupling.telemetry_questions > questions.calibration.count:
        yield loaded.bad_value(
            "coupling.telemetry_questions",
            ("coupling", "telemetry_questions"),
            coupling.telemetry_questions,
            f"questions.calibration.count is {questions.calibration.count}",
            "give at most that many",
        )
