"""Checkpoints of an unfinished training, so that a killed one resumes.

The trainer writes adapter, optimiser, schedule and random states. We add a file with the losses and readings so far.
It is written last: a checkpoint without it is incomplete and ignored.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flatprobe.pipeline import resume

RECORDED = "recorded.json"
LAST_GOOD = "last-good"  # folder of the weights from before a step with a non-finite loss or gradient


@dataclass
class Recorded:
    """Losses and readings up to a step."""

    losses: list[dict[str, Any]] = field(default_factory=list)
    """One (step, term, value) per step and term, with `total` among the terms."""
    readings: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the readings, each with `step`, the number of steps before it."""


def checkpoint_folder(output: Path) -> Path:
    """Checkpoint folder of the stage that writes to `output`.

    In a worker it lies in the stage's scratch folder, which survives a crash; elsewhere inside `output`.
    """
    return (resume.folder() or output) / "trainer"


def discard(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    shutil.rmtree(folder, ignore_errors=True)


def save_recorded(recorded: Recorded, checkpoint: Path) -> None:
    """Add the record to a checkpoint, which completes it."""
    partial = checkpoint / f"{RECORDED}.partial"
    partial.write_text(json.dumps(asdict(recorded)))
    partial.replace(checkpoint / RECORDED)


def newest_checkpoint(folder: Path) -> tuple[Path, Recorded] | None:
    """The complete checkpoint with the most steps, and its record; None if there is none."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{RECORDED}")]
    if not complete:
        return None
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]))
    return newest, Recorded(**json.loads((newest / RECORDED).read_text()))
