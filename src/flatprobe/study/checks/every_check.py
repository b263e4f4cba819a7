"""All checks of a study beyond the schema that need no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flatprobe.errors import Problem
from flatprobe.study.checks.conditions import condition_problems
from flatprobe.study.checks.decision import decision_problems
from flatprobe.study.checks.panel import panel_problems
from flatprobe.study.checks.questions import question_problems
from flatprobe.study.checks.recipe import recipe_problems
from flatprobe.study.loaded import LoadedStudy

CHECKS: tuple[Callable[[LoadedStudy], Iterator[Problem]], ...] = (
    panel_problems,
    question_problems,
    condition_problems,
    recipe_problems,
    decision_problems,
)


def study_problems(loaded: LoadedStudy) -> list[Problem]:
    """All problems, in the order of the study's blocks."""
    return [problem for check in CHECKS for problem in check(loaded)]
