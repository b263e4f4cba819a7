"""Experiment trackers, through the trainer's own `report_to`: chosen by the machine file, as they change no number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import TensorBoardCallback

from flatprobe.errors import Problem, UserError
from flatprobe.pipeline import resume

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


@dataclass(frozen=True)
class Tracking:
    """Who is told of a training's losses and readings, and under which name."""

    run_name: str
    report_to: tuple[str, ...] = ()
    folder: Path | None = None
    """Where TensorBoard writes; None leaves it to the trainer."""


def tracking_of(stage: str, report_to: Sequence[str], output: Path) -> Tracking:
    """Tracking under the stage's name, `stage` outside a worker; TensorBoard's files lie in the run folder's
    `tracking/`, as an artifact holds results only."""
    name = resume.stage_name() or stage
    return Tracking(name, tuple(report_to), output.parent.parent / "tracking" / name)


def direct(callbacks: Sequence[Any], tracking: Tracking) -> None:
    """Tell the trainer's TensorBoard callback, where it has one, where to write."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and tracking.folder is not None:
            callback.logging_dir = str(tracking.folder)


def require_trackers(report_to: Sequence[str]) -> None:
    """See that the packages of all trackers are here, before anything is trained.

    Raises:
        UserError: one is not installed.
    """
    missing = [PACKAGES[name] for name in report_to if find_spec(PACKAGES[name]) is None]
    if missing:
        raise UserError(
            [
                Problem(
                    "tracking.TODO", "machine: report_to", f"{name} is not installed", f"pip install {name}"
                )
                for name in missing
            ]
        )
