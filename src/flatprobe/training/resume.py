"""Where an unfinished training keeps its state, so that a killed one goes on and not anew.

The trainer writes adapter, optimiser, schedule and random streams; beside them lies what the training has recorded so
far. That file is written last, so a checkpoint without it was cut off and is passed over.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flatprobe.pipeline import resume

RECORDED = "recorded.json"
LAST_GOOD = "last-good"  # folder of the weights before a step that was not finite


@dataclass
class Recorded:
    """What a training has written down up to a step."""

    losses: list[dict[str, Any]] = field(default_factory=list)
    """One (step, term, value) per step and term, with `total` among the terms."""
    readings: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the readings taken, each with the number of steps before it."""


def checkpoint_folder(output: Path) -> Path:
    """Where the training of the stage that writes to `output` keeps its state: in a worker, in what outlives a kill;
    else beside the output."""
    return (resume.folder() or output) / "trainer"


def discard(folder: Path) -> None:
    """Remove the state of a training that is finished."""
    shutil.rmtree(folder, ignore_errors=True)


def save_recorded(recorded: Recorded, checkpoint: Path) -> None:
    """Complete a checkpoint."""
    partial = checkpoint / f"{RECORDED}.partial"
    partial.write_text(json.dumps(asdict(recorded)))
    partial.replace(checkpoint / RECORDED)


def newest_checkpoint(folder: Path) -> tuple[Path, Recorded] | None:
    """The whole checkpoint with the most steps, with what was recorded by then; None where there is none."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{RECORDED}")]
    if not whole:
        return None
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    return newest, Recorded(**json.loads((newest / RECORDED).read_text()))
