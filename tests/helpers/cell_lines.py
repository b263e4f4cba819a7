"""Small tables of cells as CSV lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

HEADER = "condition,persona,question_id,hits,total"


def write(lines: Sequence[str], name: str = "cells.csv", header: str = HEADER) -> str:
    Path(name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return name


def table(hits: Callable[[str, str, int], object], personas: str = "ab", questions: int = 3) -> list[str]:
    """Cells of K = 4 for both conditions; line 2 is base_first / a / 1."""
    return [
        f"{condition},{persona},{question},{hits(condition, persona, question)},4"
        for condition in ("base_first", "em_first")
        for persona in personas
        for question in range(1, questions + 1)
    ]


def plain(condition: str, persona: str, question: int) -> int:
    return {"base_first": 0, "em_first": 1}[condition] + (persona == "a") + (question == 1)
