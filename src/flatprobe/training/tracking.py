"""Experiment trackers of the trainer. The machine file chooses them, because they change no number."""

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
    """Where a training's losses are logged, and under which name."""

    run_name: str
    report_to: tuple[str, ...] = ()
    folder: Path | None = None
    """TensorBoard's folder; None uses the trainer's default."""


def tracking_of(stage: str, report_to: Sequence[str], output: Path) -> Tracking:
    """Tracking under the stage's name; outside a worker, under `stage`.

    TensorBoard writes to `tracking/` in the run folder, because artifacts hold only results.
    """
    name = resume.stage_name() or stage
    return Tracking(name, tuple(report_to), output.parent.parent / "tracking" / name)


def direct_tensorboard(callbacks: Sequence[Any], tracking: Tracking) -> None:
    """Set the folder of the trainer's TensorBoard callback, if it has one."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and tracking.folder is not None:
            callback.logging_dir = str(tracking.folder)


def require_trackers(report_to: Sequence[str]) -> None:
    """Assert that the packages of all trackers are installed.

    Raises:
        UserError: a package is missing.
    """
    missing = [PACKAGES[name] for name in report_to if find_spec(PACKAGES[name]) is None]
    place = "machine: report_to"
    if missing:
        raise UserError(
            [Problem("packages.missing", place, f"{name} is not installed", f"pip install {name}") for name in missing]
        )
