"""The resume folder of a stage survives kill -9, and is deleted in every other case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from drive_resume import counting
from processes import PATIENCE, eventually
from stage_functions import Number, number

from flatprobe.errors import StageFailed
from flatprobe.pipeline import resume
from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.resume import OWNER, ResumeFolder, use_resume_folder
from flatprobe.pipeline.runner import run
from flatprobe.pipeline.stage import Stage

_DRIVE = Path(__file__).parents[1] / "helpers" / "drive_resume.py"


def start(folder: Path, work: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(_DRIVE), str(folder), str(work)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "artifacts").glob(".*"))


@pytest.mark.parametrize("whole_run", [True, False])
def test_after_kill_9_the_stage_resumes_from_its_folder_which_is_then_deleted(tmp_path: Path, whole_run: bool) -> None:
    folder, work = tmp_path / "run", tmp_path
    process = start(folder, work)
    eventually(lambda: (work / "entered").exists() and (work / "entered").read_text() != "")
    worker, _ = json.loads((work / "entered").read_text())
    os.killpg(process.pid if whole_run else worker, signal.SIGKILL)
    process.wait(PATIENCE)
    assert f".resume-{counting(work).key[:12]}" in hidden(folder)
    (work / "opened").touch()
    again = start(folder, work)
    assert again.wait(PATIENCE) == 0
    assert (work / "tally").read_text().split() == ["0", "1", "2", "3", "4", "5"]
    assert hidden(folder) == []


def test_the_resume_folder_of_a_stage_that_is_no_longer_planned_is_deleted(tmp_path: Path) -> None:
    planned, dropped = number(1), number(2)
    store = ArtifactStore(tmp_path)
    for stage in (planned, dropped):
        with use_resume_folder(ResumeFolder(store.resume_folder(stage), stage.key)):
            folder = resume.folder()
            assert folder is not None
            (folder / "half").touch()
    (store.new_partial() / "half").touch()
    store.discard_partials([planned])
    assert hidden(tmp_path) == [store.resume_folder(planned).name]
    assert (store.resume_folder(planned) / "half").exists()
    run([planned], tmp_path)
    assert hidden(tmp_path) == []


def test_a_folder_of_another_or_unknown_key_is_emptied_before_use(tmp_path: Path) -> None:
    folder = tmp_path / "resume"
    for owner in ("another key", None):
        folder.mkdir(exist_ok=True)
        (folder / "chunk").write_text("of something else")
        if owner is None:
            (folder / OWNER).unlink()
        else:
            (folder / OWNER).write_text(owner)
        with use_resume_folder(ResumeFolder(folder, "key")):
            assert resume.folder() == folder
        assert [path.name for path in folder.iterdir()] == [OWNER]
        assert (folder / OWNER).read_text() == "key"


def test_a_stage_that_saves_nothing_has_no_resume_folder_even_if_it_fails(tmp_path: Path) -> None:
    run([number(1)], tmp_path)
    with pytest.raises(StageFailed):
        run([Stage("fail", "stage_functions:nowhere", Number(value=1))], tmp_path)
    assert hidden(tmp_path) == []


def test_outside_a_worker_there_is_no_folder() -> None:
    assert resume.folder() is None
