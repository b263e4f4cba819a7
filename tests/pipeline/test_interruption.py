"""A run may be interrupted or killed at any moment; the next run repeats only the running stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import three_stages
from processes import PATIENCE, eventually, gone

from flatprobe.pipeline.status import status

_DRIVE = Path(__file__).parents[1] / "helpers" / "drive.py"


class Driven:
    """`drive.py` in its own process group."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(_DRIVE), str(self.folder), str(self.work)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until_it_waits(self) -> tuple[int, int]:
        """Process ids of the worker and of its stage's child process, once the stage runs."""
        eventually((self.work / "entered").exists)
        worker, child = json.loads((self.work / "entered").read_text())
        return worker, child

    def ends(self) -> tuple[int, str]:
        """Exit status and standard error."""
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors

    def resume(self) -> tuple[int, str]:
        """Run the same command again, with the gate open."""
        (self.work / "opened").touch()
        self.process = self._start()
        return self.ends()

    def tally(self) -> list[str]:
        return (self.work / "tally").read_text().splitlines()

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in (self.folder / "events.jsonl").read_text().splitlines()]

    def artifacts(self) -> list[str]:
        return sorted(path.name.rsplit("-", 1)[0] for path in (self.folder / "artifacts").iterdir())


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    driven = Driven(tmp_path / "run", tmp_path)
    yield driven
    if driven.process.poll() is None:
        driven.process.kill()
    if driven.process.stderr is not None:
        driven.process.stderr.close()
    driven.process.wait()


def assert_the_rest_runs_once(driven: Driven, finished: int) -> None:
    code, errors = driven.resume()
    assert code == 0, errors
    assert driven.artifacts() == ["after", "before", "wait"]
    assert driven.tally() == ["write 1", "wait", "wait", "add 10"]
    assert driven.events().count("stage_reused") == finished


def test_ctrl_c_keeps_finished_stages_and_ends_all_processes(driven: Driven) -> None:
    worker, child = driven.until_it_waits()
    clock = time.monotonic()
    os.killpg(driven.process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    code, errors = driven.ends()
    assert time.monotonic() - clock < 4  # the stage is stopped, not waited for
    assert code == 1
    assert "interrupted in stage wait:" in errors
    assert "Traceback" not in errors
    assert driven.events()[-1] == "run_interrupted"
    assert driven.artifacts() == ["before"]  # the partial is gone
    eventually(lambda: gone(worker) and gone(child))
    assert_the_rest_runs_once(driven, finished=1)


def test_kill_9_of_the_worker_is_a_failure_and_one_stage_is_repeated(driven: Driven) -> None:
    worker, child = driven.until_it_waits()
    os.kill(worker, signal.SIGKILL)
    code, errors = driven.ends()
    assert code == 1
    assert "stage wait failed: its process was killed by SIGKILL" in errors
    assert str(driven.folder / "logs" / "wait.log") in errors
    eventually(lambda: gone(child))
    assert_the_rest_runs_once(driven, finished=1)


def test_kill_9_of_the_runner_also_ends_the_worker_and_one_stage_is_repeated(driven: Driven) -> None:
    worker, child = driven.until_it_waits()
    os.killpg(driven.process.pid, signal.SIGKILL)
    code, _ = driven.ends()
    assert code == -signal.SIGKILL
    eventually(lambda: gone(worker) and gone(child))
    assert any(name.startswith(".partial") for name in driven.artifacts())
    assert_the_rest_runs_once(driven, finished=1)


def test_a_stage_counts_as_running_only_while_its_run_lives(driven: Driven) -> None:
    worker, _ = driven.until_it_waits()
    states = [stage.state for stage in status([three_stages(driven.work)], driven.folder)]
    assert states == ["finished", "running", "missing"]
    os.killpg(driven.process.pid, signal.SIGKILL)
    driven.ends()
    states = [stage.state for stage in status([three_stages(driven.work)], driven.folder)]
    assert states == ["finished", "missing", "missing"]
    eventually(lambda: gone(worker))


def test_a_second_run_beside_a_live_one_is_refused_and_does_not_disturb_it(driven: Driven) -> None:
    driven.until_it_waits()
    second = Driven(driven.folder, driven.work)
    code, errors = second.ends()
    assert code == 2
    assert f"process {driven.process.pid} on" in errors
    (driven.work / "opened").touch()
    assert driven.ends()[0] == 0
    assert driven.tally() == ["write 1", "wait", "add 10"]
