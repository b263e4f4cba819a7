"""Runs: what is reused, what is computed again, and how failures are reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from stage_functions import FRESH, Number, number, plain

from flatprobe.errors import StageFailed, UserError
from flatprobe.pipeline import executors
from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.display import Display
from flatprobe.pipeline.executors import LocalExecutor
from flatprobe.pipeline.lock import run_lock
from flatprobe.pipeline.runner import RunnerSettings, run
from flatprobe.pipeline.stage import Resources, Stage
from flatprobe.pipeline.status import status
from flatprobe.pipeline.task import Finished, make_task


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def names_of(event: str, folder: Path) -> list[object]:
    return [line["stage"] for line in events(folder) if line["event"] == event]


def sum_of_two(tally: Path | None = None) -> Stage:
    inputs = {"left": number(1, tally), "right": number(2, tally)}
    return Stage("sum", "stage_functions:add", Number(value=10, tally=tally), inputs)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def new(self: LocalExecutor) -> executors.Worker:
        raise AssertionError("a process was started")

    monkeypatch.setattr(LocalExecutor, "_new", new)


def test_a_run_computes_a_target_from_its_inputs(tmp_path: Path) -> None:
    summary = run([sum_of_two()], tmp_path)
    assert (summary.done, summary.reused) == (3, 0)
    assert (summary.artifacts["sum"].folder / "number.txt").read_text() == "13"
    assert summary.artifacts["write/1"].facts == {"value": 1}
    assert names_of("stage_finished", tmp_path) == ["write/1", "write/2", "sum"]


def test_a_manifest_records_function_settings_inputs_files_and_software(tmp_path: Path) -> None:
    target = sum_of_two()
    manifest = run([target], tmp_path, RunnerSettings(threads=1)).artifacts["sum"].manifest
    assert (manifest.key, manifest.function, manifest.version) == (target.key, "stage_functions:add", 1)
    assert manifest.settings == {"value": 10, "tally": None}
    assert {role: record.key for role, record in manifest.inputs.items()} == {
        "left": number(1).key,
        "right": number(2).key,
    }
    assert manifest.files["number.txt"].bytes == 2
    assert manifest.provenance.threads == 1
    assert "pydantic" in manifest.provenance.packages


def test_a_second_run_reuses_everything_and_starts_no_process(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = run([sum_of_two()], tmp_path)
    request.getfixturevalue("no_process")
    second = run([sum_of_two()], tmp_path)
    assert (second.done, second.reused) == (0, 3)
    assert second.artifacts == first.artifacts
    assert names_of("stage_reused", tmp_path) == ["write/1", "write/2", "sum"]


def test_the_callback_gets_each_artifact_as_soon_as_it_exists_computed_or_reused(tmp_path: Path) -> None:
    calls: list[tuple[str, bool, int]] = []

    def on_finished(stage: Stage, artifact: Artifact) -> None:
        finished = len(names_of("stage_finished", tmp_path)) + len(names_of("stage_reused", tmp_path))
        calls.append((stage.name, (artifact.folder / "number.txt").exists(), finished))

    run([number(1)], tmp_path, on_finished=on_finished)
    run([sum_of_two()], tmp_path, on_finished=on_finished)
    assert calls == [("write/1", True, 1), ("write/1", True, 2), ("write/2", True, 3), ("sum", True, 4)]


def test_forty_finished_stages_are_reused_within_a_second(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    stages = [number(value) for value in range(40)]
    run(stages, tmp_path)
    request.getfixturevalue("no_process")
    clock = time.monotonic()
    assert run(stages, tmp_path).reused == 40
    assert time.monotonic() - clock < 1.0


class Notes(Display):
    """Records the messages of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_only_stages_that_depend_on_a_changed_setting_are_computed_again(tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    run([sum_of_two(tally)], tmp_path / "run")
    changed = Stage("sum", "stage_functions:add", Number(value=20, tally=tally), sum_of_two(tally).inputs)
    display = Notes()
    assert run([changed], tmp_path / "run", display=display).done == 1
    assert display.notes == ["sum is computed again: value was 10, now 20"]
    assert tally.read_text().splitlines() == ["write 1", "write 2", "add 10", "add 20"]


def test_two_names_for_one_computation_are_one_artifact_under_both_names(tmp_path: Path) -> None:
    summary = run([number(1, name="first"), number(1, name="second")], tmp_path)
    assert summary.done == 1
    assert summary.artifacts["first"] == summary.artifacts["second"]


def test_only_a_damaged_artifact_is_computed_again_if_its_content_stays_the_same(tmp_path: Path) -> None:
    first = run([sum_of_two()], tmp_path)
    (first.artifacts["write/1"].folder / "number.txt").unlink()
    second = run([sum_of_two()], tmp_path)
    assert (second.done, second.reused) == (1, 2)
    assert names_of("stage_damaged", tmp_path) == ["write/1"]


def test_a_stage_is_computed_again_if_its_recomputed_input_has_other_content(tmp_path: Path) -> None:
    source = Stage("clock", "stage_functions:write_the_time", Number(value=0))
    user = Stage("user", "stage_functions:add", Number(value=0), {"clock": source})
    first = run([user], tmp_path)
    (first.artifacts["clock"].folder / "number.txt").unlink()
    second = run([user], tmp_path)
    assert second.done == 2
    texts = {name: (artifact.folder / "number.txt").read_text() for name, artifact in second.artifacts.items()}
    assert texts["user"] == texts["clock"]


def test_warm_stages_share_a_process_and_a_fresh_one_has_its_own(tmp_path: Path) -> None:
    stages = [
        plain("write_process", name=name, resources=resources)
        for name, resources in (("one", Resources()), ("two", FRESH), ("three", Resources()))
    ]
    stages = [Stage(s.name, s.function, s.settings, version=i, resources=s.resources) for i, s in enumerate(stages)]
    facts = [artifact.facts for artifact in run(stages, tmp_path).artifacts.values()]
    pids = [fact["pid"] for fact in facts if isinstance(fact, dict)]
    assert pids[0] == pids[2]
    assert len({*pids, os.getpid()}) == 3


def test_threads_and_environment_reach_the_worker_and_not_this_process(tmp_path: Path) -> None:
    before = dict(os.environ)
    machine = RunnerSettings(threads=3, environment={"EXTRA": "yes"})
    facts = run([plain("write_process")], tmp_path, machine).artifacts["write_process"].facts
    assert isinstance(facts, dict)
    assert (facts["threads"], facts["extra"]) == ("3", "yes")
    assert dict(os.environ) == before


SCRIPT = """
import sys
from pathlib import Path

import torch
from stage_functions import plain
from flatprobe.pipeline.runner import RunnerSettings, run

if __name__ == "__main__":
    torch.set_num_threads(3)
    settings = RunnerSettings(threads=1)
    print(run([plain("write_torch_threads")], Path(sys.argv[1]), settings).artifacts["write_torch_threads"].facts)
"""


def test_workers_of_a_script_that_imports_torch_at_its_top_use_the_given_threads(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": os.pathsep.join([*sys.path]), "OMP_NUM_THREADS": "2"}
    output = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "run"],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "{'threads': 1}" in output


def test_a_failure_has_the_stage_the_error_and_a_log_with_all_output(tmp_path: Path) -> None:
    target = Stage("sum", "stage_functions:add", Number(value=0), {"a": number(1), "b": plain("fail")})
    with pytest.raises(StageFailed) as caught:
        run([target], tmp_path)
    assert caught.value.stage == "fail"
    assert caught.value.cause == "ArithmeticError: the loss is not a number"
    assert caught.value.log == tmp_path / "logs" / "fail.log"
    log = caught.value.log.read_text()
    assert all(words in log for words in ("said by python", "said by a child", "Traceback", "in fail"))
    assert names_of("stage_failed", tmp_path) == ["fail"]


def test_after_a_failure_finished_artifacts_stay_and_partial_ones_go(tmp_path: Path) -> None:
    with pytest.raises(StageFailed):
        run([number(1), plain("fail")], tmp_path)
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [f"write__1-{number(1).key[:12]}"]
    assert run([number(1)], tmp_path).reused == 1


def test_a_user_error_of_a_stage_is_raised_with_all_its_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run([plain("refuse")], tmp_path)
    assert [(problem.code, problem.place) for problem in caught.value.problems] == [
        ("test.some", "mine.yaml:3"),
        ("test.some", "mine.yaml:9"),
    ]
    assert caught.value.problems[0].remedy == "look at its name"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        ("die", "killed by SIGKILL"),
        ("exit_quietly", "SystemExit: 0"),
        ("leave_nothing", "no file"),
        ("leave_a_link", "symbolic link, link"),
        ("no_such_function", "no attribute 'no_such_function'"),
    ],
)
def test_a_stage_without_a_valid_output_is_a_failure(tmp_path: Path, function: str, cause: str) -> None:
    with pytest.raises(StageFailed, match=cause):
        run([plain(function)], tmp_path)
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_the_last_words_of_a_killed_process_are_in_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with pytest.raises(StageFailed, match="last words"):
        run([plain("die")], tmp_path)


def test_the_failure_names_a_missing_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from stage_functions import number\n"
        "from flatprobe.pipeline.runner import run\n"
        "run([number(1)], Path('run'))\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "StageFailed: stage write/1 failed: its process ended with status 1" in ended.stderr
    assert "guarded by `__name__`" in ended.stderr


def test_settings_of_another_type_than_the_function_declares_are_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="ValidationError"):
        run([Stage("s", "stage_functions:fail", Number(value=1))], tmp_path)


def test_a_second_run_in_the_same_folder_is_refused_with_the_first_one_s_process(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(UserError) as caught:
        run([number(1)], tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == ("run.locked", str(tmp_path))
    assert str(os.getpid()) in problem.message
    assert run([number(1)], tmp_path).done == 1


def test_a_run_folder_that_cannot_be_created_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "run"
    with pytest.raises(UserError) as caught:
        run([number(1)], folder)
    assert [(problem.code, problem.place) for problem in caught.value.problems] == [("run.not_writable", str(folder))]


def test_an_incomplete_last_event_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "run_st')
    run([number(1)], tmp_path)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines[1:]][-1] == "run_finished"


def test_status_distinguishes_finished_damaged_and_missing_stages(tmp_path: Path) -> None:
    run([number(1), number(2)], tmp_path)
    damaged = run([number(2)], tmp_path).artifacts["write/2"]
    (damaged.folder / "number.txt").unlink()
    statuses = status([number(1), number(2), number(3)], tmp_path)
    assert [stage.state for stage in statuses] == ["finished", "damaged", "missing"]
    assert statuses[0].bytes == len("1") + len('{"value": 1}')
    assert statuses[0].seconds is not None
    assert statuses[1].damage == "number.txt is missing"
    assert (statuses[1].seconds, statuses[2].bytes) == (None, None)


def test_status_does_not_create_a_missing_folder(tmp_path: Path) -> None:
    assert [stage.state for stage in status([number(1)], tmp_path / "none")] == ["missing"]
    assert not (tmp_path / "none").exists()


def test_a_warm_worker_that_died_between_two_stages_is_replaced(tmp_path: Path) -> None:
    executor = LocalExecutor()
    store = ArtifactStore(tmp_path)

    def execute(name: str) -> int:
        stage = plain("write_process", name=name)
        partial = store.new_partial()
        executor.submit(make_task(stage, {}, partial, tmp_path / "log", tmp_path / "resume"))
        _, outcome = executor.wait(lambda task, progress: None)
        assert isinstance(outcome, Finished)
        pid = json.loads((partial / "facts.json").read_text())["pid"]
        assert isinstance(pid, int)
        return pid

    with closing(executor):
        first = execute("one")
        os.kill(first, signal.SIGKILL)
        (idle,) = executor._idle
        idle._process.join()
        assert execute("two") != first
