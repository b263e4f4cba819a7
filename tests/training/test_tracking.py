from __future__ import annotations

from pathlib import Path

from transformers.integrations.integration_utils import TensorBoardCallback

from flatprobe.pipeline.resume import ResumeFolder, use_resume_folder
from flatprobe.training.resume import checkpoint_folder, discard
from flatprobe.training.tracking import Tracking, direct, require_trackers, tracking_of


def test_a_run_bears_the_stage_s_name_and_its_files_lie_outside_of_the_artifact(tmp_path: Path) -> None:
    output = tmp_path / "artifacts" / ".partial-1"
    with use_resume_folder(
        ResumeFolder(tmp_path / "artifacts" / ".resume-abc", "abc", "finetune/em_first/seed-42")
    ):
        tracking = tracking_of("finetune", ["wandb"], output)
    assert tracking == Tracking(
        "finetune/em_first/seed-42", ("wandb",), tmp_path / "tracking" / "finetune/em_first/seed-42"
    )
    assert tracking_of("finetune", [], output).run_name == "finetune"  # outside a worker


def test_tensorboard_is_told_where_to_write(tmp_path: Path) -> None:
    callback = TensorBoardCallback.__new__(TensorBoardCallback)  # its package need not be installed
    direct([object(), callback], Tracking("couple/em", ("tensorboard",), tmp_path))
    assert callback.logging_dir == str(tmp_path)


def test_no_tracker_needs_no_package() -> None:
    require_trackers(())


def test_in_a_worker_the_state_of_a_training_lies_in_what_outlives_a_kill(tmp_path: Path) -> None:
    output, kept = tmp_path / ".partial-1", tmp_path / ".resume-abc"
    assert checkpoint_folder(output) == output / "trainer"
    with use_resume_folder(ResumeFolder(kept, "abc")):
        folder = checkpoint_folder(output)
        assert folder == kept / "trainer"
        (folder / "checkpoint-2").mkdir(parents=True)
        discard(folder)
    assert kept.is_dir() and not folder.exists()
