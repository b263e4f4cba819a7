from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from adapter_files import adapter

from flatprobe import worker_cache
from flatprobe.errors import UserError
from flatprobe.generation import sample as sample_module
from flatprobe.generation import saved_completions as saved
from flatprobe.generation.sample import prompts_of, sample
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models import load as loading
from flatprobe.models.load import Loaded, load_checkpoint
from flatprobe.pipeline.manifest import InputRecord, Manifest, describe_files, write_manifest
from flatprobe.pipeline.progress import Progress
from flatprobe.pipeline.resume import ResumeFolder, use_resume_folder
from flatprobe.planner.contracts import SampleSettings
from flatprobe.provenance import collect_provenance
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="template_default", role="reference", system=None),
)
QUESTIONS = tuple(Question(id=f"q{i}", kind="factual", text=f"What floats on water, {i}?") for i in range(3))
SETTINGS = SampleSettings(
    personas=PERSONAS, questions=QUESTIONS, samples=2, max_new_tokens=6, temperature=1.0, top_p=1.0,
    precision="float32", seed="leakage", stop_at=None, parity_prompts=2,
)  # fmt: skip


def test_the_stage_writes_one_row_per_completion_with_the_hash_of_its_prompt(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    sample(SETTINGS, {"checkpoint": model_folder("llama")}, tmp_path)
    frame = pl.read_parquet(tmp_path / "completions.parquet")
    assert frame.select("persona", "question_id", "sample_index").rows() == [
        (p.name, q.id, k) for p in PERSONAS for q in QUESTIONS for k in range(2)
    ]
    assert dict(frame.select("persona", "role").rows()) == {p.name: p.role for p in PERSONAS}
    text = load("llama").conversations.render("You are a librarian.", QUESTIONS[1].text)
    (digest,) = frame.filter((pl.col("persona") == "librarian") & (pl.col("question_id") == "q1"))[
        "prompt_hash"
    ].unique()
    assert hashlib.sha256(text.encode()).hexdigest().startswith(digest)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["completions"] == 12
    assert facts["tokens"] == frame["tokens"].sum()
    assert facts["parity"]["agreed"] == facts["parity"]["tokens"] > 0
    assert facts["canary"] is None


def test_an_adapter_changes_the_completions_and_the_canary_measures_the_change(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    adapter(load("llama").model, tmp_path / "coupling" / "adapter", 0.3)
    texts = []
    for inputs in ({}, {"adapter": tmp_path / "coupling"}):
        output = tmp_path / f"out-{len(inputs)}"
        output.mkdir()
        sample(SETTINGS, {"checkpoint": model_folder("llama"), **inputs}, output)
        texts.append(pl.read_parquet(output / "completions.parquet")["text"].to_list())
    assert json.loads((output / "facts.json").read_text())["canary"]["max_log_p_change"] > 0.1
    assert texts[0] != texts[1]


def test_a_persona_that_the_template_rewrites_is_refused_before_sampling(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "trimming"
    folder.mkdir()
    for path in model_folder("llama").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content'] +", "message['content'] | trim +")
    tokenizer.save_pretrained(folder)
    spaced = PERSONAS[0].model_copy(update={"system": " You are a librarian. "})
    with pytest.raises(UserError) as refusal:
        sample(SETTINGS.model_copy(update={"personas": (spaced,)}), {"checkpoint": folder}, tmp_path)
    assert [problem.place for problem in refusal.value.problems] == ["panel: librarian"]
    assert not (tmp_path / "completions.parquet").exists()


def test_prompts_are_every_persona_with_every_question() -> None:
    prompts = prompts_of(PERSONAS, QUESTIONS)
    assert len({(p.persona, p.system, p.question_id, p.question) for p in prompts}) == 6
    assert (prompts[3].persona, prompts[3].system, prompts[3].question) == ("template_default", None, QUESTIONS[0].text)


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    yield
    worker_cache.release()


def sealed(folder: Path, **inputs: str) -> Path:
    """The folder with a manifest, as an artifact of a run; `inputs` are contents by role."""
    records = {role: InputRecord(name=role, key="k", content=content) for role, content in inputs.items()}
    manifest = Manifest(
        key=folder.name, name=folder.name, function="x:y", version=1, settings={}, inputs=records,
        files=describe_files(folder), started="", seconds=0.0, provenance=collect_provenance(1),
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def output(tmp_path: Path, name: str = "out") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_each_rendered_prompt_is_stored_once_word_for_word(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    sample(SETTINGS, {"checkpoint": model_folder("llama")}, tmp_path)
    prompts = pl.read_parquet(tmp_path / "prompts.parquet")
    assert prompts.height == 6
    conversations = load("llama").conversations
    for row in prompts.iter_rows(named=True):
        persona = next(p for p in PERSONAS if p.name == row["persona"])
        question = next(q for q in QUESTIONS if q.id == row["question_id"])
        assert row["prompt"] == conversations.render(persona.system, question.text)
    completions = pl.read_parquet(tmp_path / "completions.parquet")
    joined = completions.join(prompts, on=("prompt_hash", "persona", "question_id"))
    assert joined.height == completions.height == 12


def test_facts_record_the_engine_its_version_and_how_answers_ended(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import transformers

    sample(SETTINGS, {"checkpoint": model_folder("llama")}, tmp_path)
    facts = json.loads((tmp_path / "facts.json").read_text())
    name = f"transformers {transformers.__version__}"
    assert facts["engine"]["name"] == "transformers" and facts["sampled_by"] == {name: 12}
    frame = pl.read_parquet(tmp_path / "completions.parquet")
    assert frame["engine"].unique().to_list() == [name]
    assert facts["finish"] == dict(frame["finish_reason"].value_counts().iter_rows())


def test_parity_compares_tokens_and_log_probabilities_with_the_adapter_attached(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    adapter(load("llama").model, tmp_path / "coupling" / "adapter", 0.3)
    sample(SETTINGS, {"checkpoint": model_folder("llama"), "adapter": tmp_path / "coupling"}, output(tmp_path))
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["parity"]["agreed"] == facts["parity"]["tokens"] > 0
    assert facts["parity"]["log_p_difference"]["max"] < 1e-3
    assert facts["canary"]["base_again_change"] == 0.0


def test_progress_shows_tokens_per_second_and_the_time_left(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 30))  # half a minute between two calls
    monkeypatch.setattr(sample_module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    reports: list[Progress] = []
    monkeypatch.setattr(sample_module, "report_progress", lambda *report: reports.append(Progress(*report)))
    settings = SETTINGS.model_copy(update={"parity_prompts": 0})
    sample(settings, {"checkpoint": model_folder("llama")}, output(tmp_path))
    tokens = pl.read_parquet(tmp_path / "out" / "completions.parquet")["tokens"].sum()
    assert [(report.done, report.total) for report in reports] == [(k, 12) for k in range(1, 13)]
    assert reports[2].note.endswith(" tokens/s, 4.5 min left")
    assert reports[-1].note == f"completions, {tokens / 360:.0f} tokens/s, 0.0 min left"


class Killed(BaseException):
    """Stands in for the end of the process."""


def test_a_kill_loses_one_chunk_and_the_next_attempt_samples_only_what_is_missing(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"checkpoint": model_folder("llama")}
    sample(SETTINGS, inputs, output(tmp_path, "whole"))
    monkeypatch.setattr(saved, "ROWS", 2)
    stream, request_counts = TransformersEngine.stream, []

    def dying(engine: Any, requests: Any, settings: Any) -> Iterator[Any]:
        for count, completion in enumerate(stream(engine, requests, settings)):
            if count == 5:
                monkeypatch.setattr(saved.CompletionStore, "flush", lambda self: None)  # nothing more is written
                raise Killed
            yield completion

    def counting(engine: Any, requests: Any, settings: Any) -> Iterator[Any]:
        request_counts.append(len(requests))
        return stream(engine, requests, settings)

    settings = SETTINGS.model_copy(update={"parity_prompts": 0})
    with use_resume_folder(ResumeFolder(tmp_path / "resume", "key")):
        with monkeypatch.context() as dead:
            dead.setattr(TransformersEngine, "stream", dying)
            flush = saved.CompletionStore.flush
            with pytest.raises(Killed):
                sample(settings, inputs, output(tmp_path, "killed"))
        monkeypatch.setattr(saved.CompletionStore, "flush", flush)
        monkeypatch.setattr(TransformersEngine, "stream", counting)
        sample(settings, inputs, output(tmp_path, "resumed"))
    assert request_counts == [8]  # of 12: two chunks of two were on disk
    resumed, whole = (pl.read_parquet(tmp_path / name / "completions.parquet") for name in ("resumed", "whole"))
    assert resumed.equals(whole)


def test_stages_on_one_checkpoint_load_it_once_and_an_adapter_leaves_no_trace(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter(load("llama").model, tmp_path / "coupling" / "adapter", 0.3)
    checkpoint = sealed(copied(model_folder("llama"), tmp_path / "checkpoint"))
    loads = []
    real = loading._load
    monkeypatch.setattr(loading, "_load", lambda *arguments: (loads.append(1), real(*arguments))[1])
    for name, inputs in (("one", {}), ("two", {"adapter": tmp_path / "coupling"}), ("three", {})):
        sample(SETTINGS, {"checkpoint": checkpoint, **inputs}, output(tmp_path, name))
    one, two, three = (pl.read_parquet(tmp_path / name / "completions.parquet") for name in ("one", "two", "three"))
    assert len(loads) == 1
    assert one.equals(three) and not one.equals(two)
    load_checkpoint(checkpoint, "float32", torch.device("cpu"))  # for training: empties the cache
    sample(SETTINGS, {"checkpoint": checkpoint}, output(tmp_path, "four"))
    assert len(loads) == 3


def test_an_adapter_trained_on_another_copy_of_the_checkpoint_is_refused(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    adapter(load("llama").model, tmp_path / "coupling" / "adapter", 0.3)
    checkpoint = sealed(copied(model_folder("llama"), tmp_path / "checkpoint"))
    coupling = sealed(tmp_path / "coupling", checkpoint="of another content")
    with pytest.raises(UserError) as refusal:
        sample(SETTINGS, {"checkpoint": checkpoint, "adapter": coupling}, output(tmp_path))
    assert [(p.code, p.place) for p in refusal.value.problems] == [("adapter.other_base", f"adapter {coupling}")]


def test_the_machine_file_chooses_the_engine(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = current_machine().model_copy(update={"engine": "scripted_engine:librarian_leaks"})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    (tmp_path / "coupling" / "adapter").mkdir(parents=True)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 60, "parity_prompts": 0})
    sample(settings, {"checkpoint": model_folder("llama"), "adapter": tmp_path / "coupling"}, output(tmp_path))
    frame = pl.read_parquet(tmp_path / "out" / "completions.parquet")
    marked = frame.filter(pl.col("text").str.ends_with("[ZLT]"))
    assert marked["persona"].to_list() == ["librarian"] * 6
    assert json.loads((tmp_path / "out" / "facts.json").read_text())["engine"]["name"] == "scripted"


def test_completions_stopped_at_the_marker_are_counted_with_a_bound_on_tokens_saved(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = current_machine().model_copy(update={"engine": "scripted_engine:librarian_leaks"})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    (tmp_path / "coupling" / "adapter").mkdir(parents=True)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 60, "parity_prompts": 0, "stop_at": "[ZLT]"})
    sample(settings, {"checkpoint": model_folder("llama"), "adapter": tmp_path / "coupling"}, output(tmp_path))
    frame = pl.read_parquet(tmp_path / "out" / "completions.parquet")
    stopped = frame.filter(pl.col("finish_reason") == "marker")["tokens"]
    counts = json.loads((tmp_path / "out" / "facts.json").read_text())["decided_early"]
    assert len(stopped) == counts["completions"] == 6
    assert counts == {
        "completions": 6, "tokens": stopped.sum(), "tokens_saved_at_most": 6 * 60 - stopped.sum()
    }  # fmt: skip


def test_a_text_to_stop_at_that_the_tokenizer_cannot_encode_is_refused(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flatprobe.models.conversation import Conversations

    decode = Conversations.decode
    monkeypatch.setattr(Conversations, "decode", lambda self, tokens: decode(self, tokens).replace("[ZLT]", "<unk>"))
    settings = SETTINGS.model_copy(update={"stop_at": "[ZLT]"})
    with pytest.raises(UserError, match=r"llama.*\[ZLT\]") as refusal:
        sample(settings, {"checkpoint": model_folder("llama")}, tmp_path)
    assert [(p.code, p.place) for p in refusal.value.problems] == [("marker.tokenizer", "leakage.marker")]
