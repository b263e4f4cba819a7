"""A whole study of a tiny model through the command line: run, run again, kill, go on, reuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

STAGES = 57
WriteStudy = Callable[[Callable[[dict[str, Any]], None]], Path]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "flatprobe", *map(str, words)]


def flatprobe(*words: str | Path) -> Ran:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=170, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def unchanged(study: dict[str, Any]) -> None:
    """The study as it is."""


def run(study: Path, runs: Path) -> Ran:
    return flatprobe("run", study, "--machine", study.parent / "machine.yaml", "--runs", runs)


@pytest.fixture(scope="module")
def finished(write_study: WriteStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Ran]:
    study, runs = write_study(unchanged), tmp_path_factory.mktemp("runs")
    return study, runs, run(study, runs)


def observations(runs: Path) -> dict[str, bytes]:
    """Everything that a study measured and concluded, byte for byte."""
    analysis = runs / "tiny" / "analysis"
    files = [*sorted((analysis / "tables").iterdir()), analysis / "estimates.json", analysis / "verdict.json"]
    return {file.name: file.read_bytes() for file in files}


def test_a_study_runs_to_a_verdict_and_a_report(finished: tuple[Path, Path, Ran]) -> None:
    study, runs, ran = finished
    assert ran.code == 0, ran.err
    assert f"{STAGES} stages run, 0 reused" in ran.out
    page = (runs / "tiny" / "report.html").read_text()
    verdict = json.loads((runs / "tiny" / "analysis" / "verdict.json").read_text())
    assert verdict["headline"] in ran.out and verdict["headline"].startswith("SMOKE RUN")
    assert verdict["verdict"] in page
    printed = flatprobe("verdict", study, "--json", "--runs", runs)
    assert json.loads(printed.out) == verdict


def test_the_control_s_headroom_is_said_per_layer_before_anything_is_trained(finished: tuple[Path, Path, Ran]) -> None:
    lines = finished[2].err.splitlines()
    said = next(place for place, line in enumerate(lines) if line.startswith("Headroom of base_first at"))
    trained = [place for place, line in enumerate(lines) if "finetune/" in line or "couple/" in line]
    assert lines[said + 1].startswith("layer ") and said < min(trained)


def test_every_condition_has_its_completions_and_only_the_control_the_whole_sweep(
    finished: tuple[Path, Path, Ran],
) -> None:
    completions = pl.read_parquet(finished[1] / "tiny" / "analysis" / "tables" / "completions.parquet")
    coupled = completions.filter(pl.col("coupled"))
    counts = dict(coupled.group_by("condition").len().rows())
    cell = 7 * 3 * 2  # personas, questions, samples
    assert counts == {"base_first": 2 * cell, "em_first": cell, "benign_first": cell}
    assert completions.filter(~pl.col("coupled")).height == 3 * 7 * 3
    assert not completions.filter(~pl.col("coupled"))["marker_present"].any()


def test_every_coupling_is_tested_for_what_it_binds_to_and_every_adapter_is_measured(
    finished: tuple[Path, Path, Ran],
) -> None:
    tables = finished[1] / "tiny" / "analysis" / "tables"
    effects = pl.read_parquet(tables / "binding_effects.parquet")
    assert sorted(effects.select("condition", "lambda").unique().rows()) == sorted(
        pl.read_parquet(tables / "rates.parquet").drop_nulls("lambda").select("condition", "lambda").unique().rows()
    )
    weights = pl.read_parquet(tables / "weights.parquet")
    measured = weights.group_by("stage", "condition", "lambda").len()
    assert dict(measured.group_by("stage").len().rows()) == {"couple": 4, "finetune": 2}
    assert weights["norm_ratio"].min() > 0


def test_the_audit_of_a_finished_study_reads_its_training_sets_and_completions(
    finished: tuple[Path, Path, Ran],
) -> None:
    study, runs, _ = finished
    audited = flatprobe("audit", study, "--runs", runs, "--json", "-")
    assert audited.code == 0, audited.err
    sets = {one["name"]: one for one in json.loads(audited.out)["sets"]}
    assert {one["origin"] for one in sets.values()} == {"the run folder"}
    coupling = sets["coupling/base_first/seed-42"]
    assert coupling["evaluation"].count("leakage/base_first/") == 2
    ends = [c for c in coupling["contexts"] if (c["where"], c["place"]) == ("evaluation", "after the answer")]
    assert sum(context["count"] for context in ends) == 2 * 7 * 3 * 2  # lambdas, personas, questions, samples


def test_a_second_run_redoes_nothing(finished: tuple[Path, Path, Ran]) -> None:
    study, runs, _ = finished
    before = observations(runs)
    started = time.monotonic()
    ran = run(study, runs)
    assert ran.code == 0
    assert f"0 stages run, {STAGES} reused" in ran.out
    assert time.monotonic() - started < 30  # no worker, no model: seconds, with room for a busy machine
    assert observations(runs) == before


def test_a_run_killed_while_coupling_goes_on_there_and_ends_with_the_same_tables(
    finished: tuple[Path, Path, Ran], tmp_path: Path
) -> None:
    study, runs, _ = finished
    words = ("run", study, "--machine", study.parent / "machine.yaml", "--runs", tmp_path)
    process = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    events = tmp_path / "tiny" / "events.jsonl"
    deadline = time.monotonic() + 150
    while not (events.is_file() and '"couple/base_first' in events.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, "the coupling was never reached"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished_before = len(list((tmp_path / "tiny" / "artifacts").glob("[!.]*/manifest.json")))
    ran = run(study, tmp_path)
    assert ran.code == 0, ran.err
    assert f"{STAGES - finished_before} stages run, {finished_before} reused" in ran.out
    assert observations(tmp_path) == observations(runs)


def test_existing_adapters_and_checkpoints_are_taken_as_they_are(
    finished: tuple[Path, Path, Ran], write_study: WriteStudy, talking_model: Path, tmp_path: Path
) -> None:
    adapters = list((finished[1] / "tiny" / "artifacts").glob("finetune__em_first__*/adapter"))

    def give(study: dict[str, Any]) -> None:
        study["conditions"] = {
            "base_first": {}, "em_first": {"adapter": str(adapters[0])}, "same": {"checkpoint": str(talking_model)}
        }  # fmt: skip
        study["decision"]["benign"] = "same"

    ran = run(write_study(give), tmp_path)
    assert ran.code == 0, ran.err
    tables = tmp_path / "tiny" / "analysis" / "tables"
    cosines = pl.read_parquet(tables / "cosines.parquet").pivot(
        "condition", index=["layer", "position", "responses", "persona"], values="cosine"
    )
    assert cosines["same"].equals(cosines["base_first"])
    assert not cosines["em_first"].equals(cosines["base_first"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda study: study["decision"].update(marign=0.1), "decision.marign"),
        (lambda study: study["geometry"].update(layers=[1, 36]), "36"),
        (lambda study: study["panel"].update(bystanders=["archivist", "villain"]), "villain"),
    ],
)
def test_a_bad_study_is_refused_with_file_and_line_before_anything_runs(
    write_study: WriteStudy, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    study = write_study(change)
    ran = run(study, tmp_path)
    assert ran.code == 2
    assert said in ran.err and f"{study}:" in ran.err
    assert "Traceback" not in ran.err + ran.out
    assert not (tmp_path / "tiny").exists()


def test_a_runs_folder_that_cannot_be_written_is_a_message_and_exit_status_2(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    ran = run(write_study(unchanged), blocked)
    assert ran.code == 2
    assert str(blocked) in ran.err and "Traceback" not in ran.err


def test_a_model_without_a_chat_template_is_refused(
    write_study: WriteStudy, talking_model: Path, tmp_path: Path
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(talking_model, bare)
    (bare / "chat_template.jinja").unlink()
    ran = run(write_study(lambda study: study["model"].update(id=str(bare))), tmp_path)
    assert ran.code == 2
    assert "chat template" in ran.err and "Traceback" not in ran.err


def test_ctrl_c_says_how_to_go_on_and_keeps_what_is_finished(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(unchanged)
    words = ("run", study, "--machine", study.parent / "machine.yaml", "--runs", tmp_path)
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    events = tmp_path / "tiny" / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.is_file() and '"own/base_first' in events.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in err and "Traceback" not in err
    assert list((tmp_path / "tiny" / "artifacts").glob("checkpoint__model-*/manifest.json"))
