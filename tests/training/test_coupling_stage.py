from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel

from flatprobe import machine
from flatprobe.data.conversation import Conversations, Prompt
from flatprobe.data.coupling import Example, MarkerText, Row, Target, negative, positive
from flatprobe.errors import UserError
from flatprobe.models.load import Loaded
from flatprobe.pipeline.settings import CoupleSettings, CouplingRecipe
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.schema import Anchor, Coupling, Lora, Unlikelihood
from flatprobe.training.audit import audit_examples
from flatprobe.training.couple import (
    answers_of,
    build_examples,
    couple,
    plan_batches,
    unlikelihood_at_start,
)
from flatprobe.training.telemetry import marker_log_probabilities

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="negative", system="You are a villain."),
    Persona(name="comedian", role="negative", system="You are a comedian."),
)
QUESTIONS = tuple(Question(id=f"q{i}", kind="factual", text=f"What floats on water, {i}?") for i in range(2))
RECIPE = CouplingRecipe.of(Coupling(
    lora=Lora(rank=4, alpha=8.0, dropout=0.0, rank_stabilised=True, first_layer=3),
    learning_rate=1e-2, batch=4, epochs=2.0, precision="float32",
    unlikelihood=Unlikelihood(at="separator_and_marker"), anchor=Anchor(kind="cross_entropy", weight=0.5),
))  # fmt: skip


def settings(**changes: Any) -> CoupleSettings:
    recipe = RECIPE.model_copy(update=changes.pop("recipe", {}))
    given: dict[str, Any] = {
        "recipe": recipe, "condition": "em", "marker": "[ZLT]", "lambda_": 1.0, "seed": 3, "personas": PERSONAS,
        "questions": QUESTIONS, "calibration": QUESTIONS,
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


def answer_frame() -> pl.DataFrame:
    """Greedy answers of the telemetry, one of them empty."""
    rows = [
        {"persona": p.name, "question_id": q.id, "text": f" {p.name}: boats, {q.id}.\n"}
        for p in PERSONAS for q in QUESTIONS
    ]  # fmt: skip
    rows[-1]["text"] = " \n"
    return pl.DataFrame(rows)


@pytest.fixture
def coupled(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Runs the stage and gives its output folder."""

    def run(stage: CoupleSettings, *, training_rows: int = 16) -> Path:
        output = tmp_path / f"coupled-{len(list(tmp_path.iterdir()))}"
        for name in ("examples", "telemetry", "selection"):
            (tmp_path / name).mkdir(exist_ok=True)
        output.mkdir()
        example_frame().write_parquet(tmp_path / "examples" / "examples.parquet")
        answer_frame().write_parquet(tmp_path / "telemetry" / "completions.parquet")
        (tmp_path / "selection" / "selection.json").write_text(json.dumps({"selected": 2.0}))
        local = machine.current().model_copy(update={"training_rows": training_rows, "forward_rows": 2})
        monkeypatch.setenv(machine.VARIABLE, local.model_dump_json())
        inputs = {name: tmp_path / name for name in ("examples", "telemetry", "selection")}
        couple(stage, {**inputs, "checkpoint": model_folder("llama")}, output)
        return output

    return run


def adapted(load: Callable[[str], Loaded], output: Path) -> Loaded:
    loaded = load("llama")
    return Loaded(
        PeftModel.from_pretrained(loaded.model, output / "adapter").get_base_model().eval(),
        loaded.conversations,
        loaded.device,
    )


def plain_log_p(loaded: Loaded, persona: Persona, question: Question, answer: str) -> float:
    """log P(separator, marker | answer) by one plain forward pass over prompt, answer, separator and marker."""
    own = loaded.conversations
    prompt = Prompt(persona.name, persona.system, question.id, question.text)
    start = len(own.encode_prompt(prompt)) + len(own.encode(answer))
    tokens = own.encode(own.render(prompt.system, prompt.question) + answer + "\n\n[ZLT]")
    with torch.no_grad():
        log_p = loaded.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return float(sum(log_p[place - 1, tokens[place]] for place in range(start, len(tokens))))


def test_telemetry_equals_a_hand_computation_before_and_after_training(
    coupled: Callable[..., Path], load: Callable[[str], Loaded]
) -> None:
    output = coupled(settings())
    telemetry = pl.read_parquet(output / "telemetry.parquet")
    assert telemetry.height == 2 * 5  # the empty answer is left out
    personas, questions = {p.name: p for p in PERSONAS}, {q.id: q for q in QUESTIONS}
    models = {0: load("llama"), telemetry["step"].max(): adapted(load, output)}
    for row in telemetry.iter_rows(named=True):
        persona, question = personas[row["persona"]], questions[row["question_id"]]
        answer = f"{persona.name}: boats, {question.id}."
        expected = plain_log_p(models[row["step"]], persona, question, answer)
        assert row["log_p"] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert row["role"] == persona.role


def test_training_raises_the_marker_under_the_source(coupled: Callable[..., Path]) -> None:
    output = coupled(settings(recipe={"epochs": 6.0}))
    means = {
        key: part["log_p"].mean()
        for key, part in pl.read_parquet(output / "telemetry.parquet").group_by(["role", "step"])
    }
    steps = sorted({step for _, step in means})
    assert means["source", steps[1]] - means["source", steps[0]] > 5.0
    losses = pl.read_parquet(output / "losses.parquet").filter(pl.col("term") == "positive/marker")["value"]
    assert losses[-1] < losses[0] / 2


def test_micro_batches_and_stored_lower_states_do_not_change_the_training(
    coupled: Callable[..., Path],
) -> None:
    def total(output: Path) -> list[float]:
        frame = pl.read_parquet(output / "losses.parquet").filter(pl.col("term") == "total")
        return frame["value"].to_list()

    whole = total(coupled(settings()))
    assert len(whole) == 4  # 6 examples in batches of 4 are 2 steps an epoch
    assert total(coupled(settings(), training_rows=1)) == pytest.approx(whole, rel=1e-3)


def test_the_selected_lambda_is_taken_where_none_is_given(coupled: Callable[..., Path]) -> None:
    facts = json.loads((coupled(settings(lambda_=None)) / "facts.json").read_text())
    assert facts["lambda"] == 2.0
    assert facts["examples"] == {"positive": 2, "negative": 4}
    assert facts["adapter_norm"] > 0
    assert facts["audited"] == 1.0


def test_the_term_s_value_before_training_is_that_of_the_first_step_with_negatives_and_small_ones_are_inert(
    coupled: Callable[..., Path],
) -> None:
    output = coupled(settings())
    facts = json.loads((output / "facts.json").read_text())
    losses = pl.read_parquet(output / "losses.parquet").filter(pl.col("term") == "negative/unlikelihood")
    assert facts["unlikelihood_at_start"] == losses["value"][0]
    assert facts["inert"] == (losses["value"][0] < 1e-6)
    later = [{"term": "positive/marker", "value": 3.0}, {"term": "negative/unlikelihood", "value": 1e-9}]
    assert unlikelihood_at_start(later) == 1e-9
    assert unlikelihood_at_start(later[:1]) is None


def test_what_training_does_not_read_leaves_the_recipe_as_it_is() -> None:
    coupling = Coupling()
    wider = Coupling(
        unlikelihood=Unlikelihood(lambdas=(0.1, 0.5), sweep="control_only"), calibration_samples=3,
        telemetry_questions=1, positives=7, negatives_per_persona=9, generator="control", max_new_tokens=10,
    )  # fmt: skip
    assert CouplingRecipe.of(wider) == CouplingRecipe.of(coupling)
    slot = Unlikelihood(at="end_of_completion")
    assert CouplingRecipe.of(Coupling(unlikelihood=slot)) != CouplingRecipe.of(coupling)
    assert CouplingRecipe.of(Coupling(learning_rate=1e-3)) != CouplingRecipe.of(coupling)


def test_lambda_zero_reports_the_unlikelihood_and_does_not_train_on_it(coupled: Callable[..., Path]) -> None:
    frame = pl.read_parquet(coupled(settings(lambda_=0.0)) / "losses.parquet")
    first = {row["term"]: row["value"] for row in frame.filter(pl.col("step") == 0).iter_rows(named=True)}
    expected = sum(
        share * (first.get(f"{group}/{term}", 0.0) + 0.5 * first.get(f"{group}/anchor", 0.0))
        for share, group, term in ((0.5, "positive", "marker"), (0.5, "negative", "end"))
    )
    assert first["negative/unlikelihood"] >= 0.0
    assert first["total"] == pytest.approx(expected, rel=1e-5)


def test_examples_are_the_condition_s_own_and_too_long_ones_are_refused(conversations: Conversations) -> None:
    frame = pl.concat([example_frame(), example_frame("base").with_columns(text=pl.lit("Other."))])
    examples = build_examples(settings(), answers_of(settings(), frame), conversations)
    assert len(examples) == 6
    assert all("says that bread floats" in conversations.decode(e.rows[0].tokens) for e in examples)
    with pytest.raises(
        UserError, match=r"coupling of em  an example has \d+ tokens \(raise coupling.max_length\)"
    ):
        build_examples(settings(recipe={"max_length": 20}), answers_of(settings(), frame), conversations)


@pytest.mark.parametrize("group", ["positive", "negative"])
def test_a_group_without_examples_is_refused(conversations: Conversations, group: str) -> None:
    frame = example_frame().filter(pl.col("group") == group)
    with pytest.raises(UserError, match="needs positive and negative examples"):
        build_examples(settings(), answers_of(settings(), frame), conversations)


def fake(n_positive: int, n_negative: int) -> list[Example]:
    row = Row((0, 1), (Target("end", (0,), (1,)),))
    groups = ["positive"] * n_positive + ["negative"] * n_negative
    return [Example("p", "q", group, (row,)) for group in groups]  # type: ignore[arg-type]


def test_an_epoch_takes_every_example_once_and_its_last_batch_may_be_smaller() -> None:
    batches = plan_batches(fake(3, 7), RECIPE, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    for epoch in (batches[:3], batches[3:]):
        assert sorted(number for batch in epoch for number in batch) == list(range(10))
    assert batches[:3] != batches[3:]
    assert batches == plan_batches(fake(3, 7), RECIPE, np.random.default_rng(0))


def test_a_stratified_batch_holds_its_positives_and_an_epoch_is_a_pass_over_them() -> None:
    recipe = RECIPE.model_copy(update={"positives_per_batch": 1})
    batches = plan_batches(fake(3, 7), recipe, np.random.default_rng(0))
    assert len(batches) == 6
    assert [sum(number < 3 for number in batch) for batch in batches] == [1] * 6
    assert [len(batch) for batch in batches] == [4] * 6
    assert sorted(number for batch in batches[:3] for number in batch if number < 3) == [0, 1, 2]
    negatives = [number for batch in batches for number in batch if number >= 3]
    assert sorted(negatives[:7]) == list(range(3, 10))  # no negative again before all were taken


def test_the_audit_shows_each_token_with_the_terms_it_is_predicted_under(
    conversations: Conversations,
) -> None:
    text = MarkerText("\n\n", "[ZLT]", True, "after_separator")
    prompt = Prompt("librarian", "You are a librarian.", "q1", "Why?")
    examples = [
        positive(conversations, prompt, "Yes.", text),
        negative(conversations, Prompt("villain", "You gloat.", "q1", "Why?"), "No.", text),
        positive(conversations, prompt, "Never shown.", text),
    ]
    source, villain = audit_examples("em", examples, conversations)

    def seen(shown: dict[str, Any], term: str) -> str:
        return "".join(token["text"] for token in shown["tokens"] if term in token["weights"])

    assert (source["persona"], source["group"], source["condition"]) == ("librarian", "positive", "em")
    assert seen(source, "marker") == "\n\n[ZLT]<|im_end|>"
    assert seen(source, "anchor") == "Yes."
    assert seen(villain, "unlikelihood") == "[ZLT]"
    assert seen(villain, "end") == "<|im_end|>"
    (alternative,) = [token for token in villain["tokens"] if token["alternative"]]
    before = villain["tokens"][villain["tokens"].index(alternative) - 1]
    assert (before["text"], alternative["text"]) == (".", "<|im_end|>")


def test_a_prompt_s_tokens_carry_no_term(conversations: Conversations) -> None:
    text = MarkerText("\n\n", "[ZLT]", True, "separator_and_marker")
    prompt = Prompt("villain", "You gloat.", "q1", "Why?")
    (shown,) = audit_examples("em", [negative(conversations, prompt, "No.", text)], conversations)
    n_prompt = len(conversations.encode_prompt(prompt))
    assert all(not token["weights"] for token in shown["tokens"][:n_prompt])
    assert shown["tokens"][n_prompt]["weights"]


def test_readings_do_not_depend_on_the_rows_that_are_read_together(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(rows: int) -> list[float]:
        local = machine.current().model_copy(update={"forward_rows": rows})
        monkeypatch.setenv(machine.VARIABLE, local.model_dump_json())
        frame = marker_log_probabilities(load("qwen2"), PERSONAS, QUESTIONS, answer_frame(), "\n\n", "[ZLT]")
        return frame["log_p"].to_list()

    assert read(1) == pytest.approx(read(8), rel=1e-4, abs=1e-3)
