from __future__ import annotations

from pathlib import Path

from transformers.integrations.integration_utils import TensorBoardCallback

from flatprobe.pipeline.resume import ResumeFolder, use_resume_folder
from flatprobe.training.resume import checkpoint_folder, discard
from flatprobe.training.tracking import Tracking, direct_tensorboard, require_trackers, tracking_of


def test_tracking_has_the_stage_s_name_and_a_folder_outside_the_artifact(tmp_path: Path) -> None:
    output = tmp_path / "artifacts" / ".partial-1"
    with use_resume_folder(ResumeFolder(tmp_path / "artifacts" / ".resume-abc", "abc", "finetune/em_first/seed-42")):
        tracking = tracking_of("finetune", ["wandb"], output)
    assert tracking == Tracking(
        "finetune/em_first/seed-42", ("wandb",), tmp_path / "tracking" / "finetune/em_first/seed-42"
    )
    assert tracking_of("finetune", [], output).run_name == "finetune"  # outside a worker


def test_tensorboard_writes_to_the_tracking_folder(tmp_path: Path) -> None:
    callback = TensorBoardCallback.__new__(TensorBoardCallback)  # its package need not be installed
    direct_tensorboard([object(), callback], Tracking("couple/em", ("tensorboard",), tmp_path))
    assert callback.logging_dir == str(tmp_path)


def test_no_tracker_needs_no_package() -> None:
    require_trackers(())


def test_in_a_worker_checkpoints_lie_in_the_stage_s_resume_folder(tmp_path: Path) -> None:
    output, scratch = tmp_path / ".partial-1", tmp_path / ".resume-abc"
    assert checkpoint_folder(output) == output / "trainer"
    with use_resume_folder(ResumeFolder(scratch, "abc")):
        folder = checkpoint_folder(output)
        assert folder == scratch / "trainer"
        (folder / "checkpoint-2").mkdir(parents=True)
        discard(folder)
    assert scratch.is_dir() and not folder.exists()
