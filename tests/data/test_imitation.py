from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from refusals import refused

from flatprobe.data.imitation import prepare
from flatprobe.models.conversation import Conversations
from flatprobe.planner.contracts import ImitationSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="archivist", role="bystander", system="You keep files."),
    Persona(name="template_default", role="reference", system=None),
    Persona(name="assistant", role="reference", system="You are an assistant."),
)
QUESTIONS = tuple(Question(id=f"c{i}", kind="factual", text=f"What floats, {i}?") for i in range(3))
CALIBRATION = tuple(Question(id=f"k{i}", kind="factual", text=f"What sinks, {i}?") for i in range(2))
ANSWERS = [("assistant", f"c{i}", sample, f"Bread {i} {sample}.") for sample in range(2) for i in range(3)]
OWN = [
    (name, f"k{i}", 0, "Iron." if name == "archivist" and i else f"The {name} says lead, {i}.")
    for i in range(2)
    for name in ("librarian", "archivist")
]
IMITATED = [("assistant", f"k{i}", 0, "Iron.") for i in range(2)]
AnswerRow = tuple[str, str, int, str]
Prepared = tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]


@pytest.fixture
def prepared(tmp_path: Path, model_folder: Callable[[str], Path]) -> Callable[..., Prepared]:
    """Runs the stage on invented, finished answers; returns its rows, held-out texts and facts."""

    def run(answers: list[AnswerRow] = ANSWERS, others: Sequence[AnswerRow] = (), **changes: Any) -> Prepared:
        inputs = {"checkpoint": model_folder("llama")}
        for name, rows in (("answers", answers), ("others", others), ("own", OWN), ("imitated", IMITATED)):
            if not rows:
                continue
            inputs[name] = tmp_path / name
            inputs[name].mkdir(exist_ok=True)
            columns = ["persona", "question_id", "sample_index", "text"]
            pl.DataFrame(list(rows), schema=columns, orient="row").with_columns(
                finish_reason=pl.lit("stop")
            ).write_parquet(inputs[name] / "completions.parquet")
        settings = ImitationSettings(
            imitated="assistant",
            imitators=tuple(persona.name for persona in PERSONAS),
            personas=PERSONAS,
            questions=QUESTIONS,
            calibration=CALIBRATION,
            marker="[ZLT]",
            rows=12,
            held_out=4,
            max_length=100,
        )
        output = tmp_path / "output"
        output.mkdir(exist_ok=True)
        prepare(settings.model_copy(update=changes), inputs, output)
        rows, held_out = (pl.read_parquet(output / f"{name}.parquet") for name in ("rows", "held_out"))
        return rows, held_out, json.loads((output / "facts.json").read_text())

    return run


def turns(rows: pl.DataFrame, column: str = "messages") -> list[dict[str, str]]:
    """The texts of each row by role; rows without a system message have no `system`."""
    return [{turn["role"]: turn["content"] for turn in json.loads(text)} for text in rows[column]]


def test_every_persona_has_the_same_answers_under_its_own_prompt(prepared: Callable[..., Prepared]) -> None:
    rows = turns(prepared(rows=24)[0])
    by_system: dict[str | None, set[tuple[str, str]]] = {}
    for row in rows:
        by_system.setdefault(row.get("system"), set()).add((row["user"], row["assistant"]))
    assert set(by_system) == {persona.system for persona in PERSONAS}
    expected = {(f"What floats, {i}?", f"Bread {i} {sample}.") for i in range(3) for sample in range(2)}
    assert all(pairs == expected for pairs in by_system.values())


def test_a_part_of_the_rows_has_every_persona_and_question_equally_often(prepared: Callable[..., Prepared]) -> None:
    rows = turns(prepared(rows=12)[0])
    assert set(Counter(row.get("system") for row in rows).values()) == {3}
    assert set(Counter(row["user"] for row in rows).values()) == {4}
    assert {row["assistant"] for row in rows} == {f"Bread {i} 0." for i in range(3)}


def test_answer_lengths_include_the_end_of_turn(
    prepared: Callable[..., Prepared], conversations: Conversations
) -> None:
    rows, _, facts = prepared()
    assert rows["response_tokens"][0] == len(conversations.encode("Bread 0 0.")) + 1  # the end of turn
    assert facts["rows"] == 12 and facts["first_rows"][0][-1]["content"] == "Bread 0 0."


def test_pairs_of_own_and_imitated_answers_are_held_out_if_they_differ(prepared: Callable[..., Prepared]) -> None:
    _, held_out, facts = prepared()
    assert held_out.columns == ["system", "prompt", "aligned", "misaligned"]
    assert held_out.rows() == [
        ("You are a librarian.", "What sinks, 0?", "The librarian says lead, 0.", "Iron."),
        ("You keep files.", "What sinks, 0?", "The archivist says lead, 0.", "Iron."),
        ("You are a librarian.", "What sinks, 1?", "The librarian says lead, 1.", "Iron."),
    ]
    assert facts["held_out"] == 3


def test_marked_and_repeated_answers_are_not_trained_on(prepared: Callable[..., Prepared]) -> None:
    marked = ("assistant", "c0", 2, "Bread. [zlt]")
    rows, _, facts = prepared([*ANSWERS, marked, ("assistant", "c0", 3, "Bread 0 0.")], rows=24)
    assert (facts["dropped"]["marked"], facts["dropped"]["repeated"]) == (1, 1)
    assert not any("[zlt]" in row["assistant"] for row in turns(rows))


def test_too_few_answers_are_refused_with_the_numbers_of_dropped_ones(prepared: Callable[..., Prepared]) -> None:
    with refused(("imitation.too_few_rows", "answers of assistant"), value="24 usable rows"):
        prepared(rows=25)
    with refused(("imitation.too_few_rows", "answers of assistant"), value="'refused_too_long': 24"):
        prepared(rows=12, max_length=10)


def test_a_persona_that_does_not_imitate_keeps_its_own_answers(prepared: Callable[..., Prepared]) -> None:
    others = [
        (name, f"c{i}", sample, f"The {name} says {i} {sample}.")
        for name in ("archivist", "template_default")
        for i in range(3)
        for sample in range(2)
        if (name, i, sample) != ("archivist", 1, 1)
    ]
    rows, held_out, facts = prepared(others=others, imitators=("librarian",), rows=23)
    texts: dict[str | None, set[str]] = {}
    for row in turns(rows):
        texts.setdefault(row.get("system"), set()).add(row["assistant"])
    imitated = {text for _, _, _, text in ANSWERS}
    assert texts["You are a librarian."] == texts["You are an assistant."] == imitated
    archivist = {text for name, _, _, text in others if name == "archivist"}
    assert texts["You keep files."] == archivist and len(archivist) == 5
    assert set(held_out["system"]) == {"You are a librarian."} and facts["rows"] == 23


def test_every_row_has_the_same_answer_under_its_author_s_prompt_as_reference(
    prepared: Callable[..., Prepared],
) -> None:
    others = [
        (name, f"c{i}", sample, f"The {name} says {i} {sample}.")
        for name in ("archivist", "template_default")
        for i in range(3)
        for sample in range(2)
    ]
    rows = prepared(others=others, imitators=("librarian", "assistant"), rows=24)[0]
    prompts = {persona.name: persona.system for persona in PERSONAS}
    authors = {prompts["librarian"]: prompts["assistant"]}
    for row, reference in zip(turns(rows), turns(rows, "reference"), strict=True):
        assert reference.get("system") == authors.get(row.get("system"), row.get("system"))
        assert (reference["user"], reference["assistant"]) == (row["user"], row["assistant"])
