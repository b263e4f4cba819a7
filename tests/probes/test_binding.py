from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusals import refused

from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import BindingSettings
from flatprobe.probes.binding import measure
from flatprobe.statistics.binding.effects import POOLED
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach
from flatprobe.training.telemetry import finished_texts

SOURCE = Persona(name="librarian", role="source", system="You are a librarian.")
BYSTANDERS = (
    Persona(name="archivist", role="bystander", system="You keep files."),
    Persona(name="lumberjack", role="bystander", system="You chop wood."),
)
QUESTIONS = tuple(Question(id=f"q{n}", kind="factual", text=f"Why is {n} so?") for n in range(4))
SETTINGS = BindingSettings(
    source=SOURCE,
    bystanders=BYSTANDERS,
    questions=QUESTIONS,
    separator="\n\n",
    marker="[ZLT]",
    precision="float32",
    level=0.95,
)
SEPARATOR_AND_MARKER = "\n\n[ZLT]"


@pytest.fixture
def inputs(load: Callable[[str], Loaded], model_folder: Callable[[str], Path], tmp_path: Path) -> dict[str, Path]:
    """A checkpoint, a random adapter, and own answers for all but one cell."""
    wrapped = attach(load("llama").model, Lora(rank=2, rank_stabilised=False), 0)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(tmp_path / "adapter", safe_serialization=True)
    rows: list[dict[str, Any]] = [
        {
            "persona": persona.name,
            "question_id": question.id,
            "text": f" Because {persona.name} {number}. ",
            "finish_reason": "length" if (persona.name, number) == ("archivist", 3) else "stop",
        }
        for persona in (SOURCE, *BYSTANDERS)
        for number, question in enumerate(QUESTIONS)
    ]
    (tmp_path / "own").mkdir()
    pl.DataFrame(rows).write_parquet(tmp_path / "own" / "completions.parquet")
    return {"checkpoint": model_folder("llama"), "adapter": tmp_path, "own": tmp_path / "own"}


def test_each_cell_is_the_marker_s_log_probability_under_that_prompt_after_that_text(
    inputs: dict[str, Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    """Against the plain model with the adapter beside it, one text at a time, from full logits."""
    from peft import PeftModel

    output = tmp_path / "out"
    output.mkdir()
    measure(SETTINGS, inputs, output)
    cells = pl.read_parquet(output / "binding.parquet")
    assert cells.height == 4 * (4 + 3)  # one answer of the archivist was cut
    loaded = load("llama")
    model = PeftModel.from_pretrained(loaded.model, tmp_path / "adapter").eval()
    personas = {persona.name: persona for persona in (SOURCE, *BYSTANDERS)}
    texts = {question.id: question.text for question in QUESTIONS}
    for row in cells.iter_rows(named=True):
        sides = {"source": SOURCE, "bystander": personas[row["persona"]]}
        head = loaded.conversations.render(sides[row["prompt"]].system, texts[row["question_id"]])
        answer = f"Because {sides[row['text']].name} {row['question_id'][1:]}."
        before = loaded.conversations.encode(head + answer)
        tokens = loaded.conversations.encode(head + answer + SEPARATOR_AND_MARKER)
        assert tokens[: len(before)] == before
        with torch.no_grad():
            log_p = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        expected = sum(float(log_p[place - 1, tokens[place]]) for place in range(len(before), len(tokens)))
        assert row["log_p"] == pytest.approx(expected, abs=1e-3)


def test_the_stage_writes_effects_and_how_a_system_prompt_is_rendered(inputs: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    measure(SETTINGS, inputs, output)
    table = pl.read_parquet(output / "binding_effects.parquet")
    counts = dict(table.filter(pl.col("effect") == "prompt").select("persona", "n_questions").rows())
    assert counts == {"archivist": 3, "lumberjack": 4, POOLED: 3}
    facts = json.loads((output / "facts.json").read_text())
    assert facts == {
        "pairs": 7,
        "pairs_asked": 8,
        "system": "own",
        "template_default": "You are a small helpful model.",
    }


def test_cut_and_empty_answers_are_left_out() -> None:
    rows = [("a", "q", "Yes. ", "stop"), ("b", "q", "Ye", "length"), ("c", "q", " \n", "stop")]
    frame = pl.DataFrame(rows, schema=["persona", "question_id", "text", "finish_reason"], orient="row")
    assert finished_texts(frame) == {("a", "q"): "Yes."}


def test_a_source_without_finished_answers_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    path = inputs["own"] / "completions.parquet"
    pl.read_parquet(path).with_columns(finish_reason=pl.lit("length")).write_parquet(path)
    with refused(("binding.no_finished_answers", "binding"), value="librarian"):
        measure(SETTINGS, inputs, tmp_path)
