"""There are enough questions, and no question stands in two sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from drafts import Draft

SETS = {
    "evaluation": ["Why is the sky blue?", "Is tea nice?", "What is iron?", "Are cats kind?"],
    "coupling": [f"What is {number}?" for number in ("one", "two", "three", "four", "five", "six", "seven", "eight")],
    "calibration": ["Who sings?", "Who dances?", "Who cooks?", "Who reads?"],
}


def own_questions(draft: Draft, sets: dict[str, list[str]], ids: str = "{name}_{index}") -> Path:
    """Give the study a questions file of its own, with a line for each set's name and each question."""
    lines = []
    for name, texts in sets.items():
        lines.append(f"{name}:")
        for index, text in enumerate(texts):
            lines.append(f'  - {{id: {ids.format(name=name, index=index)}, kind: value, text: "{text}"}}')
    path = draft.path.parent / "questions.yaml"
    path.write_text("\n".join(lines) + "\n")
    draft.change("\nquestions:\n", "\nquestions:\n  file: questions.yaml\n")
    return path


def test_own_questions_load(draft: Draft) -> None:
    own_questions(draft, SETS)
    assert [question.text for question in draft.load().questions["calibration"]] == SETS["calibration"]


@pytest.mark.parametrize("name", SETS)
def test_more_questions_than_the_set_has_are_refused(draft: Draft, name: str) -> None:
    count = 8 if name == "coupling" else 4
    problem = draft.change(f"{name}: {{count: {count}}}", f"{name}: {{count: 999}}").problem()
    assert (problem.code, problem.place) == ("questions.too_few", draft.line("999"))
    assert problem.message.startswith(f"questions.{name}.count = 999:")


def test_a_question_in_two_sets_is_refused_even_with_other_case_and_punctuation(draft: Draft) -> None:
    path = own_questions(draft, {**SETS, "calibration": [*SETS["calibration"], "why IS the  sky: blue"]})
    problem = draft.problem()
    assert (problem.code, problem.place) == ("questions.duplicate_text", f"{path}:20")
    assert "calibration_4" in problem.message and "evaluation_0" in problem.message


def test_ids_must_be_unique_over_all_sets(draft: Draft) -> None:
    path = own_questions(draft, SETS, ids="q{index}")
    problems = draft.problems()
    assert len(problems) == 8  # four of coupling, four of calibration
    assert {problem.code for problem in problems} == {"questions.duplicate_id"}
    assert problems[0].place == f"{path}:7"
    assert "coupling[0].id = q0" in problems[0].message and f"{path}:2" in problems[0].message


def test_a_bad_field_of_the_questions_file_is_placed_there(draft: Draft) -> None:
    path = own_questions(draft, SETS)
    path.write_text(path.read_text().replace("kind: value", "kind: valeu", 1))
    problem = draft.problem()
    assert (problem.code, problem.place) == ("field.choice", f"{path}:2")
    assert problem.remedy == "did you mean `value`?"


def test_a_single_evaluation_question_is_refused(draft: Draft) -> None:
    problem = draft.change("evaluation: {count: 4}", "evaluation: {count: 1}").problem()
    assert (problem.code, problem.place) == ("questions.no_interval", draft.line("evaluation: {count: 1}"))


def test_telemetry_cannot_use_more_questions_than_the_calibration_set_has(draft: Draft) -> None:
    problem = draft.change("telemetry_questions: 4", "telemetry_questions: 5").problem()
    assert (problem.code, problem.place) == (
        "coupling.telemetry_questions", draft.line("telemetry_questions: 5")
    )  # fmt: skip
    assert problem.message == "coupling.telemetry_questions = 5: questions.calibration.count is 4"
