"""Several stages at a time: who runs beside whom, and how such a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from drive_meeting import meetings
from processes import eventually, gone
from stage_functions import Meeting, Number, number, plain

from flatprobe.errors import StageFailed, UserError
from flatprobe.pipeline.display import PlainDisplay
from flatprobe.pipeline.runner import RunnerSettings, run
from flatprobe.pipeline.stage import Stage
from flatprobe.pipeline.status import status

_DRIVE = Path(__file__).parents[1] / "helpers" / "drive_meeting.py"


def facts_of(stages: list[Stage], folder: Path, machine: RunnerSettings) -> list[dict[str, Any]]:
    facts = [made.facts for made in run(stages, folder, machine).artifacts.values()]
    return [fact for fact in facts if isinstance(fact, dict)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_stages_that_do_not_need_each_other_run_at_the_same_time(tmp_path: Path, place: Path) -> None:
    facts = facts_of(
        meetings(place, 2), tmp_path / "run", RunnerSettings(workers=2)
    )  # each waits for the other
    assert facts[0]["pid"] != facts[1]["pid"]


def test_a_stage_waits_for_what_it_needs_however_many_workers_there_are(tmp_path: Path) -> None:
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
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    facts = facts_of(meetings(place, 3), tmp_path / "run", RunnerSettings(workers=3, gpus=2))
    assert sorted(fact["gpu"] for fact in facts) == ["5", "5", "7"]


def test_what_is_under_way_when_a_stage_fails_is_finished_and_nothing_else_begun(
    tmp_path: Path, place: Path
) -> None:
    (met,) = meetings(place, 1, parties=2)
    failing = Stage("fail", "stage_functions:fail_once_there", Meeting(name="0", place=place, parties=0))
    later = threading.Timer(1.5, (place / "released").touch)  # long after the failure has been told
    later.start()
    with pytest.raises(StageFailed, match="fail failed"):
        run([met, failing, number(1)], tmp_path / "run", RunnerSettings(workers=2))
    assert [stage.state for stage in status([met, failing, number(1)], tmp_path / "run")] == [
        "finished", "missing", "missing",
    ]  # fmt: skip


def test_problems_of_all_stages_that_refused_come_together(tmp_path: Path, place: Path) -> None:
    refusing = [
        Stage(met.name, "stage_functions:meet_and_refuse", met.settings) for met in meetings(place, 2)
    ]
    with pytest.raises(UserError) as caught:
        run(refusing, tmp_path / "run", RunnerSettings(workers=2))
    assert len(caught.value.problems) == 4
    assert caught.value.problems[0].place == "mine.yaml:3"


def test_the_cause_of_a_failure_is_told_while_others_finish(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (met,) = meetings(place, 1, parties=2)
    failing = Stage("fail", "stage_functions:fail_once_there", Meeting(name="0", place=place, parties=0))
    threading.Timer(1.0, (place / "released").touch).start()
    with pytest.raises(StageFailed):
        run([met, failing], tmp_path / "run", RunnerSettings(workers=2), PlainDisplay())
    said = capsys.readouterr().err
    assert said.index("ArithmeticError: no number") < said.index("meet/0  done in")


def test_ctrl_c_stops_all_that_is_under_way_and_names_it(tmp_path: Path, place: Path) -> None:
    run_folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(_DRIVE), str(run_folder), str(place)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    eventually(lambda: len(list(place.iterdir())) == 2)
    assert [stage.state for stage in status(meetings(place, 2, parties=3), run_folder)] == [
        "running",
        "running",
    ]
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted in stage meet/0, meet/1:" in said
    assert list((run_folder / "artifacts").iterdir()) == []
    workers = [int(line.rsplit(" ", 1)[1]) for log in (run_folder / "logs").iterdir()
               for line in log.read_text().splitlines() if line.startswith("===")]  # fmt: skip
    assert len(set(workers)) == 2
    eventually(lambda: all(gone(worker) for worker in workers))
    assert (
        json.loads((run_folder / "events.jsonl").read_text().splitlines()[-1])["event"] == "run_interrupted"
    )


def test_a_worker_is_given_the_checkpoint_that_it_may_still_hold(tmp_path: Path, place: Path) -> None:
    first = [
        Stage(met.name, met.function, met.settings, {"checkpoint": number(n)})
        for n, met in enumerate(meetings(place, 2))
    ]
    last = [
        Stage(f"last/{n}", "stage_functions:write_process", plain("write_process").settings,
              {"checkpoint": number(n), "one": first[0], "two": first[1]})
        for n in (1, 0)
    ]  # fmt: skip
    facts: Any = {
        name: made.facts
        for name, made in run(last, tmp_path / "run", RunnerSettings(workers=2)).artifacts.items()
    }
    pids = {name: facts[name]["pid"] for name in ("meet/0", "meet/1", "last/0", "last/1")}
    assert pids["meet/0"] != pids["meet/1"]
    assert (pids["last/0"], pids["last/1"]) == (pids["meet/0"], pids["meet/1"])
