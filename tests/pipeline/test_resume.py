"""What a stage keeps for its next attempt outlives a kill -9 and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drive_resume import counting
from stage_functions import Number, number

from flatprobe.errors import StageFailed
from flatprobe.pipeline import resume
from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.resume import OWNER, Place, lasting
from flatprobe.pipeline.runner import run
from flatprobe.pipeline.stage import Stage

_DRIVE = Path(__file__).parents[1] / "helpers" / "drive_resume.py"
_PATIENCE = 20.0


def start(folder: Path, work: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(_DRIVE), str(folder), str(work)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "artifacts").glob(".*"))


@pytest.mark.parametrize("whole_run", [True, False])
def test_after_kill_9_the_stage_goes_on_from_what_it_kept_and_nothing_is_left_of_it(
    tmp_path: Path, whole_run: bool
) -> None:
    folder, work = tmp_path / "run", tmp_path
    process = start(folder, work)
    eventually(lambda: (work / "entered").exists() and (work / "entered").read_text() != "")
    worker, _ = json.loads((work / "entered").read_text())
    os.killpg(process.pid if whole_run else worker, signal.SIGKILL)
    process.wait(_PATIENCE)
    assert f".resume-{counting(work).key[:12]}" in hidden(folder)
    (work / "opened").touch()
    again = start(folder, work)
    assert again.wait(_PATIENCE) == 0
    assert (work / "tally").read_text().split() == ["0", "1", "2", "3", "4", "5"]
    assert hidden(folder) == []


def test_what_was_kept_goes_when_its_stage_is_not_planned_any_more(tmp_path: Path) -> None:
    stays, goes = number(1), number(2)
    store = ArtifactStore(tmp_path)
    for stage in (stays, goes):
        with lasting(Place(store.resume(stage), stage.key)):
            folder = resume.folder()
            assert folder is not None
            (folder / "half").touch()
    (store.begin() / "half").touch()
    store.discard_partials([stays])
    assert hidden(tmp_path) == [store.resume(stays).name]
    assert (store.resume(stays) / "half").exists()
    run([stays], tmp_path)
    assert hidden(tmp_path) == []


def test_a_folder_of_another_key_or_of_none_is_emptied_before_it_is_used(tmp_path: Path) -> None:
    place = tmp_path / "resume"
    for owner in ("another key", None):
        place.mkdir(exist_ok=True)
        (place / "chunk").write_text("of something else")
        if owner is None:
            (place / OWNER).unlink()
        else:
            (place / OWNER).write_text(owner)
        with lasting(Place(place, "key")):
            assert resume.folder() == place
        assert [path.name for path in place.iterdir()] == [OWNER]
        assert (place / OWNER).read_text() == "key"


def test_a_stage_that_keeps_nothing_leaves_no_folder_even_where_it_fails(tmp_path: Path) -> None:
    run([number(1)], tmp_path)
    with pytest.raises(StageFailed):
        run([Stage("fail", "stage_functions:nowhere", Number(value=1))], tmp_path)
    assert hidden(tmp_path) == []


def test_outside_a_worker_there_is_no_folder() -> None:
    assert resume.folder() is None
