"""The states of all stages of a run folder. Read-only; needs no lock."""

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

StageState = Literal["finished", "missing", "damaged", "running"]


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run."""

    name: str
    key: str
    state: StageState
    seconds: float | None = None
    """Wall time; None if not finished."""
    bytes: int | None = None
    """Size of its files; None if not finished."""
    damage: str | None = None
    """How its artifact is damaged; the next run computes the stage again."""


def status(targets: Sequence[Stage], folder: Path) -> list[StageStatus]:
    """The state of every target and all its inputs, in the order of a run. The folder need not exist."""
    store = ArtifactStore(folder)
    running = _running(folder / "events.jsonl")
    artifacts: dict[str, Artifact] = {}
    statuses = []
    for stage in topological_order(targets):
        inputs = {role: artifacts[upstream.key] for role, upstream in stage.inputs.items() if upstream.key in artifacts}
        try:
            artifact, damage = store.find_current(stage, inputs), None
        except Damaged as error:
            artifact, damage = None, str(error)
        if artifact is not None:
            artifacts[stage.key] = artifact
            manifest = artifact.manifest
            statuses.append(StageStatus(stage.name, stage.key, "finished", manifest.seconds, manifest.bytes))
        elif stage.key in running:
            statuses.append(StageStatus(stage.name, stage.key, "running"))
        else:
            state: StageState = "damaged" if damage else "missing"
            statuses.append(StageStatus(stage.name, stage.key, state, damage=damage))
    return statuses


def _running(events: Path) -> set[str]:
    """Keys of the stages that a live run has started and not finished, by its event log."""
    started: dict[str, int] = {}
    try:
        lines = events.read_text(encoding="utf-8").splitlines()
    except OSError:  # no run yet
        return set()
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # an incomplete line: its run was killed, or is writing it now
            continue
        match event["event"]:
            case "run_started" | "run_interrupted" | "run_finished":
                started.clear()
            case "stage_started":
                started[event["key"]] = event["pid"]
            case "stage_finished" | "stage_failed":
                started.pop(event["key"], None)
    return {key for key, pid in started.items() if _alive(pid)}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs under another user
        return True
    return True
