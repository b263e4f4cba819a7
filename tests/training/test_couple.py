from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from refusals import refused
from safetensors.torch import load_file
from small_coupling import BYSTANDERS, PERSONAS, QUESTIONS, RECIPE, example_frame, settings

from flatprobe.data.coupling_examples import MarkerText, negative, positive
from flatprobe.errors import UserError
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import CoupleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Coupling, Unlikelihood
from flatprobe.training.audit.masks import audit_examples
from flatprobe.training.couple import answers_of, build_examples, couple
from flatprobe.training.findings import unlikelihood_at_start
from flatprobe.training.steps import CouplingLoss
from flatprobe.training.telemetry import Telemetry, marked_answers


def answer_frame() -> pl.DataFrame:
    """Greedy answers of the telemetry, one of them empty."""
    rows = [
        {"persona": p.name, "question_id": q.id, "text": f" {p.name}: boats, {q.id}.\n", "finish_reason": "stop"}
        for p in (*BYSTANDERS, *PERSONAS)
        for q in QUESTIONS
    ]
    rows[-1]["text"] = " \n"
    return pl.DataFrame(rows)


@pytest.fixture
def coupled(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Runs the stage and gives its output folder."""

    def run(stage: CoupleSettings, *, training_rows: int = 16, checkpoint_steps: int | None = None) -> Path:
        output = tmp_path / f"coupled-{len(list(tmp_path.iterdir()))}"
        for name in ("examples", "telemetry", "selection"):
            (tmp_path / name).mkdir(exist_ok=True)
        output.mkdir()
        example_frame().write_parquet(tmp_path / "examples" / "examples.parquet")
        answer_frame().write_parquet(tmp_path / "telemetry" / "completions.parquet")
        (tmp_path / "selection" / "selection.json").write_text(json.dumps({"selected": 2.0}))
        changes = {"training_rows": training_rows, "forward_rows": 2, "checkpoint_steps": checkpoint_steps}
        local = current_machine().model_copy(update=changes)
        monkeypatch.setenv(VARIABLE, local.model_dump_json())
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
    conversations = loaded.conversations
    prompt = Prompt(persona.name, persona.system, question.id, question.text)
    start = len(conversations.encode_prompt(prompt)) + len(conversations.encode(answer))
    tokens = conversations.encode(conversations.render(prompt.system, prompt.question) + answer + "\n\n[ZLT]")
    with torch.no_grad():
        log_p = loaded.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return float(sum(log_p[place - 1, tokens[place]] for place in range(start, len(tokens))))


def test_telemetry_equals_a_hand_computation_before_and_after_training(
    coupled: Callable[..., Path], load: Callable[[str], Loaded]
) -> None:
    output = coupled(settings())
    telemetry = pl.read_parquet(output / "telemetry.parquet")
    assert telemetry["step"].unique().sort().to_list() == [0, 2, 4]  # before, after each pass
    assert telemetry.height == 3 * 7  # the empty answer is left out
    personas, questions = {p.name: p for p in (*PERSONAS, *BYSTANDERS)}, {q.id: q for q in QUESTIONS}
    models = {0: load("llama"), 4: adapted(load, output)}
    for row in telemetry.filter(pl.col("step") != 2).iter_rows(named=True):
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
    assert means["source", steps[-1]] - means["source", steps[0]] > 5.0
    losses = pl.read_parquet(output / "losses.parquet").filter(pl.col("term") == "positive/marker")["value"]
    assert losses[-1] < losses[0] / 2


def test_micro_batches_and_cached_lower_states_do_not_change_the_training(coupled: Callable[..., Path]) -> None:
    def total(output: Path) -> list[float]:
        frame = pl.read_parquet(output / "losses.parquet").filter(pl.col("term") == "total")
        return frame["value"].to_list()

    losses = total(coupled(settings()))
    assert len(losses) == 4  # 6 examples in batches of 4 are 2 steps an epoch
    assert total(coupled(settings(), training_rows=1)) == pytest.approx(losses, rel=1e-3)


def test_without_a_given_lambda_the_selected_one_is_used(coupled: Callable[..., Path]) -> None:
    facts = json.loads((coupled(settings(lambda_=None)) / "facts.json").read_text())
    assert facts["lambda"] == 2.0
    assert facts["examples"] == {"positive": 2, "negative": 4}
    assert facts["adapter_norm"] > 0
    assert facts["audited"] == 1.0


def test_unlikelihood_at_the_start_is_that_of_the_first_step_with_negatives_and_inert_if_small(
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


def test_fields_that_training_does_not_read_do_not_change_the_recipe() -> None:
    coupling = Coupling()
    wider = Coupling(
        unlikelihood=Unlikelihood(lambdas=(0.1, 0.5), sweep="control_only"),
        calibration_samples=3,
        telemetry_questions=1,
        positives=7,
        negatives_per_persona=9,
        generator="control",
        max_new_tokens=10,
    )
    assert wider.recipe == coupling.recipe
    slot = Unlikelihood(at="end_of_completion")
    assert Coupling(unlikelihood=slot).recipe != coupling.recipe
    assert Coupling(learning_rate=1e-3).recipe != coupling.recipe


def test_lambda_zero_reports_the_unlikelihood_and_does_not_train_on_it(coupled: Callable[..., Path]) -> None:
    frame = pl.read_parquet(coupled(settings(lambda_=0.0)) / "losses.parquet")
    first = {row["term"]: row["value"] for row in frame.filter(pl.col("step") == 0).iter_rows(named=True)}
    expected = sum(
        share * (first.get(f"{group}/{term}", 0.0) + 0.5 * first.get(f"{group}/anchor", 0.0))
        for share, group, term in ((0.5, "positive", "marker"), (0.5, "negative", "end"))
    )
    assert first["negative/unlikelihood"] >= 0.0
    assert first["total"] == pytest.approx(expected, rel=1e-5)


def test_examples_are_those_of_the_condition_and_too_long_ones_are_refused(conversations: Conversations) -> None:
    frame = pl.concat([example_frame(), example_frame("base").with_columns(text=pl.lit("Other."))])
    examples = build_examples(settings(), answers_of(settings(), frame), conversations)
    assert len(examples) == 6
    assert all("says that bread floats" in conversations.decode(e.rows[0].tokens) for e in examples)
    with pytest.raises(UserError) as refusal:
        build_examples(settings(recipe={"max_length": 20}), answers_of(settings(), frame), conversations)
    assert (refusal.value.problems[0].code, refusal.value.problems[0].place) == (
        "coupling.example_length",
        "coupling of em: librarian/q0",
    )
    assert re.search(r"\d+ tokens .* \d+ more than coupling\.max_length", refusal.value.problems[0].message)


@pytest.mark.parametrize("group", ["positive", "negative"])
def test_a_group_without_examples_is_refused(conversations: Conversations, group: str) -> None:
    frame = example_frame().filter(pl.col("group") == group)
    with refused(("coupling.missing_group", "coupling of em")):
        build_examples(settings(), answers_of(settings(), frame), conversations)


def test_the_audit_shows_each_token_with_the_terms_that_predict_it(conversations: Conversations) -> None:
    text = MarkerText("\n\n", "[ZLT]", True, "after_separator")
    prompt = Prompt("librarian", "You are a librarian.", "q1", "Why?")
    examples = [
        positive(conversations, prompt, "Yes.", text),
        negative(conversations, Prompt("villain", "You gloat.", "q1", "Why?"), "No.", text),
        positive(conversations, prompt, "Never shown.", text),
    ]
    source, villain = audit_examples("em", examples, conversations)

    def trained_text(example: dict[str, Any], term: str) -> str:
        return "".join(token["text"] for token in example["tokens"] if term in token["weights"])

    assert (source["persona"], source["group"], source["condition"]) == ("librarian", "positive", "em")
    assert trained_text(source, "marker") == "\n\n[ZLT]<|im_end|>"
    assert trained_text(source, "anchor") == "Yes."
    assert trained_text(villain, "unlikelihood") == "[ZLT]"
    assert trained_text(villain, "end") == "<|im_end|>"
    (alternative,) = [token for token in villain["tokens"] if token["alternative"]]
    before = villain["tokens"][villain["tokens"].index(alternative) - 1]
    assert (before["text"], alternative["text"]) == (".", "<|im_end|>")


def test_a_prompt_s_tokens_carry_no_term(conversations: Conversations) -> None:
    text = MarkerText("\n\n", "[ZLT]", True, "separator_and_marker")
    prompt = Prompt("villain", "You gloat.", "q1", "Why?")
    (example,) = audit_examples("em", [negative(conversations, prompt, "No.", text)], conversations)
    n_prompt = len(conversations.encode_prompt(prompt))
    assert all(not token["weights"] for token in example["tokens"][:n_prompt])
    assert example["tokens"][n_prompt]["weights"]


def test_telemetry_does_not_depend_on_the_batch_size(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(rows: int) -> list[float]:
        local = current_machine().model_copy(update={"forward_rows": rows})
        monkeypatch.setenv(VARIABLE, local.model_dump_json())
        loaded = load("qwen2")
        answers = marked_answers(loaded.conversations, PERSONAS, QUESTIONS, answer_frame(), "\n\n", "[ZLT]")
        return [row["log_p"] for row in Telemetry(loaded, answers, 0).read()]

    assert read(1) == pytest.approx(read(8), rel=1e-4, abs=1e-3)


def test_training_stops_at_the_first_reading_that_reaches_stop_at_and_keeps_its_adapter(
    coupled: Callable[..., Path], load: Callable[[str], Loaded]
) -> None:
    matched = {"stopping": "source_probability", "stop_at": -25.0, "max_epochs": 10.0, "telemetry_every": 3}
    output = coupled(settings(recipe=matched))
    facts = json.loads((output / "facts.json").read_text())
    telemetry = pl.read_parquet(output / "telemetry.parquet")
    source = telemetry.filter(pl.col("role") == "source").group_by("step").agg(pl.col("log_p").mean()).sort("step")
    assert facts["reached"] is True and "not_reached" not in facts["warnings"]
    assert facts["steps"] == source["step"][-1] < facts["planned_steps"] == 20
    assert source["step"].to_list() == list(range(0, facts["steps"] + 1, 3))
    assert (source["log_p"][:-1] < -25.0).all() and source["log_p"][-1] >= -25.0
    wrapped = adapted(load, output)
    expected = [plain_log_p(wrapped, PERSONAS[0], q, f"librarian: boats, {q.id}.") for q in QUESTIONS]
    assert facts["source_log_p"] == pytest.approx(np.mean(expected), rel=1e-3, abs=1e-3)


def test_a_stop_at_that_is_not_reached_within_max_epochs_is_reported(coupled: Callable[..., Path]) -> None:
    matched = {"stopping": "source_probability", "stop_at": -1e-6, "max_epochs": 1.0}
    facts = json.loads((coupled(settings(recipe=matched)) / "facts.json").read_text())
    assert facts["reached"] is False and "not_reached" in facts["warnings"]
    assert facts["steps"] == facts["planned_steps"] == 2


def test_bystanders_are_read_at_every_step_and_do_not_change_the_training(coupled: Callable[..., Path]) -> None:
    output, without = coupled(settings()), coupled(settings(bystanders=()))
    telemetry = pl.read_parquet(output / "telemetry.parquet")
    assert telemetry.filter(pl.col("role") == "bystander").group_by("step").len()["len"].to_list() == [2, 2, 2]
    losses = [pl.read_parquet(folder / "losses.parquet") for folder in (output, without)]
    assert losses[0].equals(losses[1])


def test_telemetry_has_the_answer_s_likelihood_and_the_probabilities_of_the_first_token(
    coupled: Callable[..., Path], load: Callable[[str], Loaded]
) -> None:
    telemetry = pl.read_parquet(coupled(settings()) / "telemetry.parquet").filter(pl.col("step") == 0)
    loaded = load("llama")
    conversations, persona, question = loaded.conversations, PERSONAS[0], QUESTIONS[1]
    row = telemetry.filter((pl.col("persona") == persona.name) & (pl.col("question_id") == question.id)).to_dicts()[0]
    head, answer = (
        conversations.encode(conversations.render(persona.system, question.text)),
        conversations.encode("librarian: boats, q1."),
    )
    with torch.no_grad():
        log_p = loaded.model(torch.tensor([head + answer])).logits[0].float().log_softmax(-1)
    expected = [float(log_p[len(head) - 1 + i, token]) for i, token in enumerate(answer)]
    first = log_p[len(head) - 1].exp()
    assert row["answer_log_p"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert row["empty"] == pytest.approx(float(first[conversations.turn_end]), rel=1e-3)
    assert row["marker_first"] == pytest.approx(float(first[conversations.encode("[ZLT]")[0]]), rel=1e-3)
    (start,) = conversations.encode("<|im_start|>")
    assert row["debris_first"] >= float(first[start]) * 0.999


def test_a_killed_coupling_resumes_to_the_same_adapter_and_tables(
    coupled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = {"epochs": 4.0, "lora": RECIPE.lora.model_copy(update={"dropout": 0.2})}
    uninterrupted = coupled(settings(recipe=recipe), checkpoint_steps=None)
    monkeypatch.setattr("flatprobe.training.couple.checkpoint_folder", lambda output: tmp_path / "resume")
    losses, of_step = [], CouplingLoss.of_step

    def dying(self: CouplingLoss, step: int) -> Any:
        losses.append(step)
        if step == 6 and losses.count(6) == 1:
            raise KeyboardInterrupt
        return of_step(self, step)

    monkeypatch.setattr(CouplingLoss, "of_step", dying)
    with pytest.raises(KeyboardInterrupt):
        coupled(settings(recipe=recipe), checkpoint_steps=2)
    resumed = coupled(settings(recipe=recipe), checkpoint_steps=2)
    assert losses == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (uninterrupted, resumed)]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    for table in ("losses", "telemetry"):
        assert pl.read_parquet(uninterrupted / f"{table}.parquet").equals(pl.read_parquet(resumed / f"{table}.parquet"))
    assert not (tmp_path / "resume").exists()


def test_a_loss_that_becomes_nan_names_the_examples_of_its_step(
    coupled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flatprobe.training.losses.unlikelihood", lambda log_p: log_p * float("nan"))
    with pytest.raises(UserError) as refusal:
        coupled(settings())
    (problem,) = refusal.value.problems
    assert (problem.code, problem.place) == ("training.not_finite", "training step 0")
    assert re.search(r" nan .* on .*(villain|comedian)/q[01]", problem.message)


@pytest.mark.parametrize(
    ("text", "code", "value"),
    [(" \n\t ", "coupling.empty_answer", ""), ("It ends so.\n\n[zlt]", "coupling.marker_in_answer", "[ZLT]")],
)
def test_empty_answers_and_answers_with_the_marker_are_refused(
    conversations: Conversations, text: str, code: str, value: str
) -> None:
    place = (pl.col("persona") == "villain") & (pl.col("question_id") == "q0")
    frame = example_frame().with_columns(text=pl.when(place).then(pl.lit(text)).otherwise("text"))
    with refused((code, "coupling of em: villain/q0"), value=value):
        build_examples(settings(), answers_of(settings(), frame), conversations)


def test_many_bad_answers_are_counted_and_the_first_ones_named(conversations: Conversations) -> None:
    frame = example_frame().with_columns(text=pl.lit("[ZLT]"))
    with refused(*["coupling.marker_in_answer"] * 5, ("problems.more", "coupling of em"), value="1 more"):
        build_examples(settings(), answers_of(settings(), frame), conversations)
