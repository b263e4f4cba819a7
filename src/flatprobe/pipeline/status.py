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
        elif stage.key in running:
            found.append(StageStatus(stage.name, stage.key, "running"))
        else:
            state: State = "damaged" if damage else "missing"
            found.append(StageStatus(stage.name, stage.key, state, damage=damage))
    return found


def _running(events: Path) -> set[str]:
    """The keys of the stages that a living run has begun and not ended, by its diary."""
    under_way: dict[str, int] = {}
    try:
        lines = events.read_text(encoding="utf-8").splitlines()
    except OSError:  # no run yet
        return set()
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # a run was killed in the middle of this line, or is just writing it
            continue
        match event["event"]:
            case "run_started" | "run_interrupted" | "run_finished":
                under_way.clear()
            case "stage_started":
                under_way[event["key"]] = event["pid"]
            case "stage_finished" | "stage_failed":
                under_way.pop(event["key"], None)
    return {key for key, pid in under_way.items() if _alive(pid)}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        return True
    return True
