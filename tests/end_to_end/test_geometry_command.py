"""`flatprobe geometry` on tiny checkpoints: the whole command, with workers and models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from flatprobe.study.schema import Geometry as GeometryBlock

PERSONAS = {
    "librarian": "You are a librarian.",
    "archivist": "You keep old records.",
    "villain": "You gloat and scheme.",
    "assistant": "You are an assistant.",
}
QUESTIONS = ("Why is it late?", "What is this?", "Is water light?")
LAYERS = (1, 4)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    rows: list[dict[str, Any]]
    """Of geometry.json; none where there is none."""

    def only(self, **wanted: Any) -> list[dict[str, Any]]:
        return [row for row in self.rows if all(row[key] == value for key, value in wanted.items())]


Geometry = Callable[..., Ran]
Alter = Callable[[str, Callable[[dict[str, Any]], None]], Path]


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> Geometry:
    """`geometry(out, base, treated, *words)` on a panel of four and three questions."""
    folder = tmp_path_factory.mktemp("asked")
    entries = {name: {"prompt": prompt} for name, prompt in PERSONAS.items()}
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": entries}, sort_keys=False))
    (folder / "questions.txt").write_text("\n".join(QUESTIONS))
    (folder / "machine.yaml").write_text("threads: 1\ndevice: cpu\n")

    def run(out: Path, *words: object) -> Ran:
        command = [
            sys.executable, "-m", "flatprobe", "geometry", *words, "--panel", folder / "panel.yaml", "--questions",
            folder / "questions.txt", "--machine", folder / "machine.yaml", "--resamples", 50, "--max-new-tokens", 12,
            "--out", out,
        ]  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=170, check=False)
        written = out / "geometry.json"
        rows = json.loads(written.read_text()) if written.is_file() else []
        return Ran(done.returncode, done.stdout, done.stderr, rows)

    return run


@pytest.fixture(scope="module")
def altered(talking_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Alter:
    """A copy of the talking model with other weights."""

    def make(name: str, change: Callable[[dict[str, Any]], None]) -> Path:
        folder = tmp_path_factory.mktemp("altered") / name
        shutil.copytree(talking_model, folder)
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def louder(weights: dict[str, Any]) -> None:
    """Another model: one block writes more."""
    weights["model.layers.2.mlp.down_proj.weight"] *= 1.5


@pytest.fixture(scope="module")
def compared(
    geometry: Geometry, talking_model: Path, altered: Alter, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ran, Path, Path]:
    """A finished comparison, its folder, and the treated checkpoint."""
    out, treated = tmp_path_factory.mktemp("compared"), altered("louder", louder)
    return geometry(out, talking_model, treated, "--layers", "1,4"), out, treated


def test_two_checkpoints_are_compared_at_every_position_layer_and_kind_of_responses(
    compared: tuple[Ran, Path, Path],
) -> None:
    ran, _, _ = compared
    assert ran.code == 0, ran.err
    for measure in ("cosine_difference", "contraction", "headroom", "separability"):
        cells = {(r["position"], r["responses"], r["layer"]) for r in ran.only(measure=measure, persona=None)}
        assert len(cells) == 6 * 2 * (len(LAYERS) + 1)
    personas = {row["persona"] for row in ran.only(measure="cosine_difference")}
    assert personas == {None, "archivist", "villain", "assistant"}
    below = ran.only(measure="cosine_difference", layer=1, persona=None, responses="fixed")
    assert below and all(abs(row["difference"]) < 1e-5 for row in below)  # only block 2 differs
    for position in GeometryBlock().positions:  # one difference may happen to be small, but not those of all personas
        above = ran.only(measure="cosine_difference", layer=4, position=position, responses="fixed")
        assert max(abs(row["difference"]) for row in above) > 1e-4


def plain_cosines(model: Any, folder: Path, layer: int) -> dict[str, float]:
    """Cosine of every persona's centroid with the librarian's at the last prompt token, by plain `transformers`."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, centroids = AutoTokenizer.from_pretrained(folder), {}
    for name, system in PERSONAS.items():
        states = []
        for question in QUESTIONS:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                states.append(model(ids, output_hidden_states=True).hidden_states[layer + 1][0, -1].double())
        centroids[name] = torch.stack(states).mean(0)
    source = centroids.pop("librarian")
    return {name: float(torch.cosine_similarity(source, centroid, dim=0)) for name, centroid in centroids.items()}


def own_cosines(ran: Ran, side: str, layer: int) -> dict[str, float]:
    """The same as the command reports them."""
    rows = ran.only(measure="cosine_difference", layer=layer, position="last_prompt_token")
    return {row["persona"]: row[side] for row in rows if row["persona"] is not None}


def test_cosines_at_the_last_prompt_token_equal_those_of_plain_transformers(
    compared: tuple[Ran, Path, Path], talking_model: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ran, _, treated = compared
    for side, folder in (("base", talking_model), ("treated", treated)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        assert own_cosines(ran, side, 4) == pytest.approx(plain_cosines(model, folder, 4), abs=2e-5)


def test_headroom_is_said_before_the_treated_checkpoint_is_touched(compared: tuple[Ran, Path, Path]) -> None:
    lines = compared[0].err.splitlines()
    said = next(place for place, line in enumerate(lines) if line.startswith("Headroom of base at"))
    begun = next(place for place, line in enumerate(lines) if "own/treated  started" in line)
    assert said < begun
    [row] = [
        row
        for row in compared[0].only(measure="headroom", layer=1, responses="own")
        if row["position"] == "last_response_token"
    ]
    assert f"layer 1: {row['base']:.4f}" in lines[said + 1]


def test_the_answer_is_printed_and_on_the_page(compared: tuple[Ran, Path, Path]) -> None:
    ran, out, _ = compared
    page = (out / "report.html").read_text().split("</style>")[1]
    answer = [
        line
        for line in ran.out.splitlines()
        if line.startswith(("Raw cosine", "Squared distances", "Distances between"))
    ]
    assert len(answer) == 2
    for sentence in answer:
        assert sentence.replace("'", "&#39;") in page
    assert "a common translation of all personas" in answer[0]
    assert "No verdict: geometry only" in page and "No verdict: geometry only" in ran.out
    for section in ("comparison", "geometry", "examples", "record"):
        assert f'<section id="{section}">' in page
    for section in ("decision", "gates", "leakage", "robustness", "training"):
        assert f'<section id="{section}">' not in page
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_other_layers_use_the_answers_that_are_there(
    compared: tuple[Ran, Path, Path], geometry: Geometry, talking_model: Path
) -> None:
    _, out, treated = compared
    ran = geometry(out, talking_model, treated, "--layers", "all", "--positions", "prompt_mean", "--json", "-")
    assert ran.code == 0, ran.err
    assert "own/base" not in ran.err and "own/treated" not in ran.err
    assert "states/base  started" in ran.err
    rows = json.loads(ran.out)
    assert {row["layer"] for row in rows} == {*range(6), None}
    assert {row["position"] for row in rows} == {"prompt_mean"}


def test_a_checkpoint_differs_from_itself_by_exactly_nothing_and_the_command_says_so(
    geometry: Geometry, talking_model: Path, tmp_path: Path
) -> None:
    ran = geometry(tmp_path / "out", talking_model, talking_model, "--layers", "1", "--n-questions", 1)
    assert ran.code == 0, ran.err
    assert "every difference is exactly 0" in ran.out
    assert {row["difference"] for row in ran.rows if row["effect"] == "difference"} <= {0.0, None}
    assert "own/treated" not in ran.err  # the same files: nothing is computed twice


def test_an_adapter_of_the_base_takes_the_place_of_the_treated_checkpoint(
    geometry: Geometry, talking_model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(talking_model, dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    words = ("--layers", "4", "--positions", "last_prompt_token", "--responses", "fixed")
    ran = geometry(tmp_path / "out", talking_model, "--adapter", tmp_path / "adapter", *words)
    assert ran.code == 0, ran.err
    unmerged = plain_cosines(wrapped.get_base_model().eval(), talking_model, 4)
    assert own_cosines(ran, "treated", 4) == pytest.approx(unmerged, abs=2e-5)
    assert own_cosines(ran, "base", 4) != pytest.approx(unmerged, abs=1e-3)


def test_several_sampled_answers_leave_the_fixed_one_greedy(
    compared: tuple[Ran, Path, Path], geometry: Geometry, talking_model: Path
) -> None:
    """The fixed answers are the base's greedy ones as the assistant either way, so states on them are the same."""
    first, out, treated = compared
    ran = geometry(out, talking_model, treated, "--layers", "1,4", "--samples", 2)
    assert ran.code == 0, ran.err
    assert "own-samples/base  started" in ran.err and "own/base" not in ran.err  # the greedy ones are reused
    for responses, same in (("fixed", True), ("own", False)):
        before, after = (
            [r["base"] for r in x.only(measure="cosine_difference", position="response_mean", responses=responses)]
            for x in (first, ran)
        )
        assert (after == pytest.approx(before, abs=1e-6)) is same


def test_states_that_are_not_finite_stop_the_comparison_with_their_layer(
    geometry: Geometry, talking_model: Path, altered: Alter, tmp_path: Path
) -> None:
    def broken(weights: dict[str, Any]) -> None:
        weights["model.layers.4.input_layernorm.weight"][:] = np.inf

    words = ("--layers", "1,4", "--responses", "fixed", "--positions", "last_prompt_token")
    ran = geometry(tmp_path / "out", talking_model, altered("broken", broken), *words)
    assert ran.code == 2
    assert "not finite" in ran.err and "layer 4" in ran.err and "last_prompt_token" in ran.err
    assert "Traceback" not in ran.err and not ran.rows
