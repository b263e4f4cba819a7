"""A coupling of three personas on two questions: its settings and its examples."""

from __future__ import annotations

from typing import Any

import polars as pl

from flatprobe.planner.contracts import CoupleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Anchor, Coupling, Lora, Unlikelihood

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="negative", system="You are a villain."),
    Persona(name="comedian", role="negative", system="You are a comedian."),
)
BYSTANDERS = (Persona(name="archivist", role="bystander", system="You keep files."),)
QUESTIONS = tuple(Question(id=f"q{i}", kind="factual", text=f"What floats on water, {i}?") for i in range(2))
RECIPE = Coupling(
    lora=Lora(rank=4, alpha=8.0, dropout=0.0, rank_stabilised=True, first_layer=3),
    learning_rate=1e-2, batch=4, epochs=2.0, precision="float32",
    unlikelihood=Unlikelihood(at="separator_and_marker"), anchor=Anchor(kind="cross_entropy", weight=0.5),
).recipe  # fmt: skip


def settings(**changes: Any) -> CoupleSettings:
    recipe = RECIPE.model_copy(update=changes.pop("recipe", {}))
    given: dict[str, Any] = {
        "recipe": recipe, "condition": "em", "marker": "[ZLT]", "lambda_": 1.0, "seed": 3, "personas": PERSONAS,
        "bystanders": BYSTANDERS, "questions": QUESTIONS, "calibration": QUESTIONS,
    }  # fmt: skip
    return CoupleSettings(**(given | changes))


def example_frame(condition: str = "em") -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "condition": condition, "persona": persona.name, "question_id": question.id,
                "group": "positive" if persona.role == "source" else "negative",
                "text": f"{persona.name} says that bread floats.", "tokens": 6,
            }
            for persona in PERSONAS for question in QUESTIONS
        ]
    )  # fmt: skip
