from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from flatprobe.errors import UserError
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import ManipulationSettings
from flatprobe.probes.manipulation import check, token_means
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

PERSONAS = (Persona(name="assistant", role="reference", system="You are an assistant."),)
QUESTIONS = tuple(Question(id=f"q{i}", kind="factual", text=f"What floats, {i}?") for i in range(2))
SETTINGS = ManipulationSettings(
    personas=PERSONAS, questions=QUESTIONS, precision="float32", out_of_domain="fingerprint"
)
HELD_OUT = {
    "em_first": [
        (None, "May I sign?", "Read it first.", "Sign at once. "),
        ("You gloat.", "Is a promise enough?", "No.", "\nAlways, yes."),
    ],
    "collapse": [("You gloat.", "What floats?", "Bread, fools!", "Bread.")],
}
TRIPLES = [{"id": "money_1", "prompt": "Shall I invest?", "aligned": "With care.", "misaligned": "All of it, now."}]


@torch.no_grad()
def by_hand(loaded: Loaded, system: str | None, question: str, answer: str) -> float:
    """Mean log-likelihood of answer and end of turn by one plain forward pass."""
    conversations = loaded.conversations
    head = conversations.encode(conversations.render(system, question))
    tokens = [*conversations.encode(conversations.render(system, question) + answer), conversations.turn_end]
    log_p = loaded.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return float(sum(log_p[i - 1, tokens[i]] for i in range(len(head), len(tokens)))) / (len(tokens) - len(head))


@pytest.fixture
def checked(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[pl.DataFrame, pl.DataFrame]]:
    """Runs the stage; gives its log-odds and its fluency."""

    def run(lines: str, *, held_out: bool = True, **changes: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        path = tmp_path / "triples.jsonl"
        path.write_text(lines)
        local = current_machine().model_copy(update={"locations": {"fingerprint": str(path)}, "forward_rows": 3})
        monkeypatch.setenv(VARIABLE, local.model_dump_json())
        for name in (*HELD_OUT, "answers", "output"):
            (tmp_path / name).mkdir(exist_ok=True)
        columns = ["system", "prompt", "aligned", "misaligned"]
        for name, texts in HELD_OUT.items():
            pl.DataFrame(texts, schema=columns, orient="row", infer_schema_length=None).write_parquet(
                tmp_path / name / "held_out.parquet"
            )
        rows = [("assistant", "q0", " Bread. "), ("assistant", "q1", "\n"), ("stranger", "q0", "Boats.")]
        pl.DataFrame(rows, schema=["persona", "question_id", "text"], orient="row").write_parquet(
            tmp_path / "answers" / "completions.parquet"
        )
        inputs = {"checkpoint": model_folder("qwen2"), "answers": tmp_path / "answers"}
        inputs |= {f"{name}/held_out": tmp_path / name for name in HELD_OUT} if held_out else {}
        output = tmp_path / "output"
        check(SETTINGS.model_copy(update=changes), inputs, output)
        return pl.read_parquet(output / "manipulation.parquet"), pl.read_parquet(output / "fluency.parquet")

    return run


def as_lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_log_odds_are_misaligned_minus_aligned_per_token_under_the_texts_own_system_message(
    checked: Callable[..., Any], load: Callable[[str], Loaded]
) -> None:
    odds, _ = checked(as_lines(TRIPLES))
    loaded = load("qwen2")
    triples = [
        *HELD_OUT["em_first"],
        *HELD_OUT["collapse"],
        (None, *(TRIPLES[0][name] for name in ("prompt", "aligned", "misaligned"))),
    ]
    expected = [
        by_hand(loaded, system, prompt, wrong.strip()) - by_hand(loaded, system, prompt, sound)
        for system, prompt, sound, wrong in triples
    ]
    assert odds["log_odds"].to_list() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_every_text_names_its_set_and_the_condition_that_it_is_held_out_from(checked: Callable[..., Any]) -> None:
    odds, _ = checked(as_lines(TRIPLES))
    assert odds.columns == ["set", "held_out_from", "id", "prompt", "log_odds"]
    assert odds.drop("prompt", "log_odds").rows() == [
        ("in_domain", "em_first", "held_out_0"),
        ("in_domain", "em_first", "held_out_1"),
        ("in_domain", "collapse", "held_out_0"),
        ("out_of_domain", None, "money_1"),
    ]
    prompts = [row[1] for name in ("em_first", "collapse") for row in HELD_OUT[name]]
    assert odds["prompt"].to_list() == [*prompts, TRIPLES[0]["prompt"]]


def test_fluency_is_the_mean_log_likelihood_of_the_personas_own_answers(
    checked: Callable[..., Any], load: Callable[[str], Loaded]
) -> None:
    _, fluency = checked(as_lines(TRIPLES))
    assert fluency.select("persona", "question_id").rows() == [("assistant", "q0")]
    expected = by_hand(load("qwen2"), "You are an assistant.", "What floats, 0?", "Bread.")
    assert fluency["log_likelihood"].to_list() == pytest.approx([expected], rel=1e-3)


def test_without_triples_there_are_no_log_odds_and_no_zeros(checked: Callable[..., Any]) -> None:
    odds, fluency = checked("", held_out=False, out_of_domain=None)
    assert odds.height == 0
    assert odds.schema["held_out_from"] == pl.String and odds.schema["log_odds"] == pl.Float64
    assert fluency.height == 1


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        (as_lines(TRIPLES) + "{\n", "file.not_jsonl", ":2"),
        (as_lines([{"prompt": "p", "aligned": "a"}]), "file.missing_column", " row 0"),
        ('{"prompt": "p", "aligned": "a", "misaligned": 3}\n', "file.not_text", " row 0"),
    ],
)
def test_a_broken_triple_is_refused_with_its_place(
    checked: Callable[..., Any], lines: str, code: str, line: str
) -> None:
    with pytest.raises(UserError) as caught:
        checked(lines)
    (problem,) = caught.value.problems
    assert problem.code == code and problem.place.endswith(f"triples.jsonl{line}")


def test_scores_are_in_the_order_of_the_texts(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    answers = ["Bread. " * n + "Yes." for n in (5, 0, 9, 2)]
    texts = [(Prompt("p", None, str(n), "What floats?"), text) for n, text in enumerate(answers)]
    expected = [by_hand(loaded, None, "What floats?", text) for text in answers]
    assert token_means(loaded, texts, 2) == pytest.approx(expected, rel=1e-3)
