"""Everything that a study must keep beyond the schema and short of the model, in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flatprobe.errors import Problem
from flatprobe.study.checks.conditions import condition_problems
from flatprobe.study.checks.decision import decision_problems
from flatprobe.study.checks.panel import panel_problems
from flatprobe.study.checks.questions import question_problems
from flatprobe.study.checks.recipe import recipe_problems
from flatprobe.study.loaded import LoadedStudy

RULES: tuple[Callable[[LoadedStudy], Iterator[Problem]], ...] = (
    panel_problems, question_problems, condition_problems, recipe_problems, decision_problems,
)  # fmt: skip


def study_problems(loaded: LoadedStudy) -> list[Problem]:
    """All broken rules, in the order of the study's blocks."""
    return [problem for rule in RULES for problem in rule(loaded)]
