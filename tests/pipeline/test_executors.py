"""Several stages at the same time: where they run, and how such a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drive_meeting import meetings
from processes import eventually, gone
from stage_functions import Meeting, Number, number, plain

from flatprobe.errors import StageFailed, UserError
from flatprobe.pipeline.display import PlainDisplay
from flatprobe.pipeline.runner import RunnerSettings, run
from flatprobe.pipeline.stage import Resources, Stage
from flatprobe.pipeline.status import status

_DRIVE = Path(__file__).parents[1] / "helpers" / "drive_meeting.py"


def facts_of(stages: list[Stage], folder: Path, machine: RunnerSettings) -> list[dict[str, Any]]:
    facts = [artifact.facts for artifact in run(stages, folder, machine).artifacts.values()]
    return [fact for fact in facts if isinstance(fact, dict)]


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    (tmp_path / "meeting").mkdir()
    return tmp_path / "meeting"


def test_independent_stages_run_at_the_same_time(tmp_path: Path, meeting: Path) -> None:
    stages = meetings(meeting, 2)  # each waits for the other
    facts = facts_of(stages, tmp_path / "run", RunnerSettings(workers=2))
    assert facts[0]["pid"] != facts[1]["pid"]


def test_a_stage_waits_for_its_inputs_also_with_idle_workers(tmp_path: Path) -> None:
    total = Stage("sum", "stage_functions:add", Number(value=0), {"a": number(1), "b": number(2)})
    summary = run([total], tmp_path, RunnerSettings(workers=8))
    assert (summary.artifacts["sum"].folder / "number.txt").read_text() == "3"


def test_there_are_no_more_processes_than_workers(tmp_path: Path) -> None:
    stages = [
        Stage(f"write/{n}", "stage_functions:write_process", plain("write_process").settings, version=n)
        for n in range(6)
    ]
    assert len({fact["pid"] for fact in facts_of(stages, tmp_path, RunnerSettings(workers=2))}) <= 2


def test_each_worker_sees_one_of_the_gpus_that_this_process_may_see(
    tmp_path: Path, meeting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    facts = facts_of(meetings(meeting, 3), tmp_path / "run", RunnerSettings(workers=3, gpus=2))
    assert sorted(fact["gpu"] for fact in facts) == ["5", "5", "7"]


def test_after_a_failure_running_stages_finish_and_no_other_starts(tmp_path: Path, meeting: Path) -> None:
    (met,) = meetings(meeting, 1, parties=2)
    failing = Stage("fail", "stage_functions:fail_once_met", Meeting(name="0", folder=meeting, parties=0))
    later = threading.Timer(1.5, (meeting / "released").touch)  # long after the failure
    later.start()
    with pytest.raises(StageFailed, match="fail failed"):
        run([met, failing, number(1)], tmp_path / "run", RunnerSettings(workers=2))
    states = [stage.state for stage in status([met, failing, number(1)], tmp_path / "run")]
    assert states == ["finished", "missing", "missing"]


def test_problems_of_all_refusing_stages_are_raised_together(tmp_path: Path, meeting: Path) -> None:
    refusing = [Stage(met.name, "stage_functions:meet_and_refuse", met.settings) for met in meetings(meeting, 2)]
    with pytest.raises(UserError) as caught:
        run(refusing, tmp_path / "run", RunnerSettings(workers=2))
    assert [(problem.code, problem.place) for problem in caught.value.problems] == [
        ("test.some", "mine.yaml:3"),
        ("test.some", "mine.yaml:9"),
    ] * 2


def test_the_cause_of_a_failure_is_printed_before_other_stages_finish(
    tmp_path: Path, meeting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (met,) = meetings(meeting, 1, parties=2)
    failing = Stage("fail", "stage_functions:fail_once_met", Meeting(name="0", folder=meeting, parties=0))
    threading.Timer(1.0, (meeting / "released").touch).start()
    with pytest.raises(StageFailed):
        run([met, failing], tmp_path / "run", RunnerSettings(workers=2), PlainDisplay())
    output = capsys.readouterr().err
    assert output.index("ArithmeticError: no number") < output.index("meet/0  done in")


def test_ctrl_c_stops_all_running_stages_and_names_them(tmp_path: Path, meeting: Path) -> None:
    run_folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(_DRIVE), str(run_folder), str(meeting)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: len(list(meeting.iterdir())) == 2)
    assert [stage.state for stage in status(meetings(meeting, 2, parties=3), run_folder)] == ["running", "running"]
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted in stage meet/0, meet/1:" in output
    assert list((run_folder / "artifacts").iterdir()) == []
    log_lines = [line for log in (run_folder / "logs").iterdir() for line in log.read_text().splitlines()]
    workers = [int(line.rsplit(" ", 1)[1]) for line in log_lines if line.startswith("===")]
    assert len(set(workers)) == 2
    eventually(lambda: all(gone(worker) for worker in workers))
    last_event = json.loads((run_folder / "events.jsonl").read_text().splitlines()[-1])
    assert last_event["event"] == "run_interrupted"


def test_a_stage_runs_in_the_worker_that_may_keep_its_affinity_input_in_memory(tmp_path: Path, meeting: Path) -> None:
    resources = Resources(affinity="model")
    first = [
        replace(met, inputs={"model": number(n)}, resources=resources) for n, met in enumerate(meetings(meeting, 2))
    ]
    last = [
        replace(
            plain("write_process", name=f"last/{n}"),
            inputs={"model": number(n), "one": first[0], "two": first[1]},
            resources=resources,
        )
        for n in (1, 0)
    ]
    artifacts = run(last, tmp_path / "run", RunnerSettings(workers=2)).artifacts
    facts: Any = {name: artifact.facts for name, artifact in artifacts.items()}
    pids = {name: facts[name]["pid"] for name in ("meet/0", "meet/1", "last/0", "last/1")}
    assert pids["meet/0"] != pids["meet/1"]
    assert (pids["last/0"], pids["last/1"]) == (pids["meet/0"], pids["meet/1"])
