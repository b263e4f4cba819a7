from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from refusals import refused
from safetensors.numpy import load_file

from flatprobe.activations.positions import ProbedRow, probed_row
from flatprobe.activations.read import read_states
from flatprobe.config.blocks import Position
from flatprobe.errors import UserError
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import StatesSettings
from flatprobe.probes.states import capture
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.statistics.geometry.tables import geometry_table
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="bystander", system="You are a villain who gloats and schemes."),
    Persona(name="template_default", role="reference", system=None),
)
QUESTIONS = tuple(Question(id=f"q{i}", kind="factual", text="What floats on water" + "?" * i) for i in range(2))
POSITIONS: tuple[Position, ...] = (
    "last_response_token",
    "turn_end_token",
    "last_prompt_token",
    "response_mean",
    "prompt_mean",
    "all_mean",
)
SETTINGS = StatesSettings(
    personas=PERSONAS,
    questions=QUESTIONS,
    layers=(1, 5, 3),
    positions=POSITIONS,
    precision="float32",
    fixed_persona="template_default",
)


def answer(persona: str, question: str) -> str:
    return f"{persona} says: " + "bread floats. " * (len(persona) % 5) + f"That was {question}.\n"


def answers() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "persona": p.name,
                "question_id": q.id,
                "sample_index": 0,
                "text": answer(p.name, q.id),
                "finish_reason": "length" if (p.name, q.id) == ("villain", "q1") else "stop",
            }
            for p in PERSONAS
            for q in QUESTIONS
        ]
    )


@pytest.fixture
def captured(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Runs the stage and gives its output folder."""

    def run(family: str, frame: pl.DataFrame, *, rows: int = 4, settings: StatesSettings = SETTINGS) -> Path:
        output = tmp_path / f"{family}-{rows}"
        output.mkdir()
        frame.write_parquet(output / "completions.parquet")
        local = current_machine().model_copy(update={"forward_rows": rows})
        monkeypatch.setenv(VARIABLE, local.model_dump_json())
        inputs = {"checkpoint": model_folder(family), "own": output, "fixed": output}
        capture(settings, inputs, output)
        return output

    return run


@torch.no_grad()
def by_hand(loaded: Loaded, persona: Persona, question: Question, text: str, layer: int) -> dict[Position, Any]:
    """States of one unpadded row from the library's hidden states (the last block's through its norm's input)."""
    conversations, caught = loaded.conversations, []
    head = conversations.encode(conversations.render(persona.system, question.text))
    tokens = [*conversations.encode(conversations.render(persona.system, question.text) + text), conversations.turn_end]
    hook = loaded.model.get_decoder().norm.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    library = loaded.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    hook.remove()
    states = (caught[0] if layer == 5 else library[layer + 1])[0].numpy()
    newline = len(tokens) - 2
    assert conversations.pieces(tokens)[newline] == "\n"
    return {
        "last_response_token": states[newline - 1],
        "turn_end_token": states[-1],
        "last_prompt_token": states[len(head) - 1],
        "response_mean": states[len(head) : -1].mean(0),
        "prompt_mean": states[1 : len(head)].mean(0),
        "all_mean": states[1:].mean(0),
    }


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_states_on_own_and_fixed_responses_equal_a_computation_row_by_row(
    captured: Callable[..., Path], load: Callable[[str], Loaded], family: str
) -> None:
    output, loaded = captured(family, answers()), load(family)
    arrays = load_file(output / "states.safetensors")
    assert set(arrays) == {f"{kind}.{position}" for kind in ("own", "fixed") for position in POSITIONS}
    assert {array.shape for array in arrays.values()} == {(3, 2, 3, 32)}
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    for p, persona in enumerate(PERSONAS):
        for q, question in enumerate(QUESTIONS):
            for place, layer in enumerate(SETTINGS.layers):
                for kind, speaker in (("own", persona.name), ("fixed", "template_default")):
                    expected = by_hand(loaded, persona, question, answer(speaker, question.id), layer)
                    for position in POSITIONS:
                        np.testing.assert_allclose(
                            arrays[f"{kind}.{position}"][p, q, place], expected[position], rtol=1e-3, atol=1e-3
                        )


def test_the_index_names_the_axes_and_the_unfinished_answers(captured: Callable[..., Path]) -> None:
    output = captured("llama", answers())
    index = json.loads((output / "index.json").read_text())
    assert index["personas"] == [p.name for p in PERSONAS]
    assert index["questions"] == ["q0", "q1"]
    assert index["layers"] == [1, 5, 3]
    assert index["unfinished"] == [["villain", "q1"]]
    assert index["unfinished_fixed"] == []
    facts = json.loads((output / "facts.json").read_text())
    assert (facts["unfinished"], facts["answers"], facts["empty"]) == (1, 6, 0)


def test_the_preview_points_at_the_token_that_is_read(captured: Callable[..., Path]) -> None:
    preview = json.loads((captured("llama", answers()) / "preview.json").read_text())
    pieces = {position: {row["tokens"][row["index"]] for row in rows} for position, rows in preview.items()}
    assert pieces["last_response_token"] == {"."}
    assert pieces["turn_end_token"] == pieces["all_mean"] == {"<|im_end|>"}
    assert pieces["last_prompt_token"] == pieces["prompt_mean"] == {"\n"}


def test_an_empty_answer_is_counted_among_the_unfinished_and_read_at_its_end_of_turn(
    captured: Callable[..., Path],
) -> None:
    blank = (pl.col("persona") == "librarian") & (pl.col("question_id") == "q1")
    frame = answers().with_columns(text=pl.when(blank).then(pl.lit("\n")).otherwise(pl.col("text")))
    output = captured("llama", frame)
    index = json.loads((output / "index.json").read_text())
    assert index["unfinished"] == [["librarian", "q1"], ["villain", "q1"]]
    facts = json.loads((output / "facts.json").read_text())
    assert (facts["empty"], facts["unfinished"], facts["unfinished_fixed"]) == (1, 2, 0)
    arrays = load_file(output / "states.safetensors")
    for position in ("last_response_token", "response_mean"):
        np.testing.assert_array_equal(arrays[f"own.{position}"][0, 1], arrays["own.turn_end_token"][0, 1])


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_question_whose_fixed_answer_is_cut_or_empty_is_noted(captured: Callable[..., Path], how: str) -> None:
    spoken = (pl.col("persona") == "template_default") & (pl.col("question_id") == "q0")
    column, value = ("finish_reason", "length") if how == "cut" else ("text", " ")
    frame = answers().with_columns(pl.when(spoken).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))
    index = json.loads((captured("llama", frame) / "index.json").read_text())
    assert index["unfinished_fixed"] == ["q0"]
    assert ["template_default", "q0"] in index["unfinished"]


def test_headroom_is_what_the_geometry_table_says(captured: Callable[..., Path]) -> None:
    output = captured("llama", answers())
    facts = json.loads((output / "facts.json").read_text())
    for position in POSITIONS:
        states = States(
            "base",
            tuple(p.name for p in PERSONAS),
            ("q0", "q1"),
            SETTINGS.layers,
            load_file(output / "states.safetensors")[f"own.{position}"],
        )
        table = geometry_table(states, "librarian", ["villain"], StateKind("own", position), seed=0, splits=2)
        expected = {str(row["layer"]): row["headroom"] for row in table.iter_rows(named=True)}
        assert facts["headroom"][position] == pytest.approx(expected, abs=1e-6)


def test_a_layer_that_the_model_has_not_is_refused(captured: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"geometry\.layers  6:"):
        captured("llama", answers(), settings=SETTINGS.model_copy(update={"layers": (1, 6)}))


def test_several_samples_are_averaged_and_any_cut_one_marks_its_cell(captured: Callable[..., Path]) -> None:
    first = answers().with_columns(finish_reason=pl.lit("stop"))
    second = answers().with_columns(
        pl.lit(1).cast(pl.Int64).alias("sample_index"), pl.lit("Salt does not float.").alias("text")
    )
    both = load_file(captured("llama", pl.concat([second, first]), rows=5) / "states.safetensors")
    one = load_file(captured("llama", first, rows=6) / "states.safetensors")
    folder = captured("llama", second.with_columns(sample_index=pl.lit(0)), rows=7)
    other = load_file(folder / "states.safetensors")
    for kind in both:
        np.testing.assert_allclose(both[kind], (one[kind] + other[kind]) / 2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both["own.prompt_mean"], one["own.prompt_mean"], rtol=1e-4, atol=1e-4)
    assert not np.allclose(one["own.turn_end_token"], other["own.turn_end_token"], atol=1e-2)
    facts = json.loads((folder.parent / "llama-5" / "facts.json").read_text())
    index = json.loads((folder.parent / "llama-5" / "index.json").read_text())
    assert (facts["answers"], facts["unfinished"]) == (12, 1)
    assert index["unfinished"] == [["villain", "q1"]]


def test_an_answer_at_the_token_limit_is_read_at_an_end_of_turn_of_ours(captured: Callable[..., Path]) -> None:
    cut, stopped = answers(), answers().with_columns(finish_reason=pl.lit("stop"))
    at_limit = load_file(captured("llama", cut) / "states.safetensors")
    uncut = load_file(captured("llama", stopped, rows=5) / "states.safetensors")
    for kind, values in at_limit.items():
        np.testing.assert_allclose(values, uncut[kind], rtol=1e-4, atol=1e-4)


def test_what_own_and_fixed_answers_share_is_computed_once(captured: Callable[..., Path]) -> None:
    facts = json.loads((captured("llama", answers(), rows=12) / "facts.json").read_text())
    assert facts["computed_tokens"] < 0.7 * facts["tokens"]


def test_the_aggregate_s_headroom_is_the_mean_over_layers_for_both_kinds_of_responses(
    captured: Callable[..., Path],
) -> None:
    facts = json.loads((captured("llama", answers()) / "facts.json").read_text())
    for kind, key in (("own", "headroom"), ("fixed", "headroom_fixed")):
        for position in POSITIONS:
            by_layer = facts[key][position]
            assert list(by_layer) == ["1", "5", "3"]
            mean = facts["headroom_mean"][f"{kind}.{position}"]
            assert mean == pytest.approx(np.mean(list(by_layer.values())))


def test_without_bystanders_there_is_no_headroom(captured: Callable[..., Path]) -> None:
    alone = SETTINGS.model_copy(update={"personas": (PERSONAS[0], PERSONAS[2])})
    facts = json.loads((captured("llama", answers(), settings=alone) / "facts.json").read_text())
    assert set(facts["headroom"].values()) == set(facts["headroom_mean"].values()) == {None}


def probed(loaded: Loaded, name: str, question: str, answer: str) -> ProbedRow:
    return probed_row(loaded.conversations, Prompt(name, None, question, "Why?"), answer)


def test_a_state_that_is_not_finite_is_refused_with_layer_position_persona_and_question(
    load: Callable[[str], Loaded],
) -> None:
    loaded = load("llama")
    rows = [probed(loaded, "villain", "q7", "Because.")]
    loaded.model.model.layers[2].mlp.down_proj.weight.data.fill_(float("nan"))
    with refused(("geometry.not_finite", "geometry: layer 4, all_mean"), value="villain on question q7"):
        read_states(loaded, rows, (5, 4, 1), ("all_mean",), batch=4)
    read_states(loaded, rows, (0, 1), ("all_mean",), batch=4)


@pytest.mark.parametrize("batch", [1, 8])
def test_the_row_that_is_not_finite_is_named_and_no_other_of_its_pass(
    load: Callable[[str], Loaded], batch: int
) -> None:
    loaded = load("llama")
    bad = probed(loaded, "comedian", "q2", "Salt floats.")
    rows = [probed(loaded, "librarian", "q1", "Because bread floats."), bad, probed(loaded, "villain", "q3", "No.")]
    only_here = set(bad.tokens) - {token for row in (rows[0], rows[2]) for token in row.tokens}
    assert only_here
    loaded.model.model.embed_tokens.weight.data[sorted(only_here)] = float("inf")
    with refused("geometry.not_finite", value="comedian on question q2"):
        read_states(loaded, rows, (1,), ("last_response_token",), batch=batch)


def test_rows_beyond_the_context_are_refused_all_at_once(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    rows = [probed(loaded, name, "q1", "Bread floats. " * size) for name, size in (("a", 300), ("b", 400), ("c", 1))]
    with refused(("context.exceeded", "panel: a"), ("context.exceeded", "panel: b"), value="512"):
        read_states(loaded, rows, (1,), ("all_mean",), batch=4)


def test_means_of_bfloat16_states_are_taken_in_float32(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    loaded.model.to(torch.bfloat16)
    rows = [probed(loaded, "p", "q", "Bread floats. " * 20)]
    mean = read_states(loaded, rows, (3,), ("response_mean",), batch=4).states["response_mean"][0, 0]
    with torch.no_grad():
        states = loaded.model(torch.tensor([rows[0].tokens]), output_hidden_states=True).hidden_states[4][0]
    exact = states[rows[0].n_prompt : -1].double().mean(0).numpy()
    np.testing.assert_allclose(mean, exact, rtol=1e-5, atol=1e-6)
