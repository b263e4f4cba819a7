"""How far the stages of a run folder are; reads only, and needs no lock."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.manifest import Damaged
from flatprobe.pipeline.stage import Stage, topological_order

State = Literal["finished", "missing", "damaged", "running"]


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run."""

    name: str
    key: str
    state: State
    seconds: float | None = None
    """Wall time that it took; None where it is not finished."""
    bytes: int | None = None
    """Size of its files; None where it is not finished."""
    damage: str | None = None
    """Why its artifact is not to be trusted; the next run computes it again."""


def status(targets: Sequence[Stage], folder: Path) -> list[StageStatus]:
    """The state of every target and of all it needs, in the order of a run. The folder need not exist."""
    store = ArtifactStore(folder)
    running = _running(folder / "events.jsonl")
    artifacts: dict[str, Artifact] = {}
    found = []
    for stage in topological_order(targets):
        inputs = {
            role: artifacts[needed.key] for role, needed in stage.inputs.items() if needed.key in artifacts
        }
        try:
            artifact, damage = store.find_current(stage, inputs), None
        except Damaged as error:
            artifact, damage = None, str(error)
        if artifact is not None:
            artifacts[stage.key] = artifact
            manifest = artifact.manifest
            found.append(StageStatus(stage.name, stage.key, "finished", manifest.seconds, manifest.bytes))
        elif stage.key == running:
            found.append(StageStatus(stage.name, stage.key, "running"))
        else:
            state: State = "damaged" if damage else "missing"
            found.append(StageStatus(stage.name, stage.key, state, damage=damage))
    return found


def _running(events: Path) -> str | None:
    """The key of the stage that a living run began last, by the last line of its diary."""
    try:
        last = json.loads(events.read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, IndexError, ValueError):  # no run yet, or its first or last line is just being written
        return None
    if last["event"] != "stage_started" or not _alive(last["pid"]):
        return None
    key: str = last["key"]
    return key


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        return True
    return True
