"""What the runner and a worker say to each other: all of it pickles and holds none of a stage's classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flatprobe.errors import Problem
from flatprobe.pipeline.artifact import Artifact
from flatprobe.pipeline.manifest import InputRecord
from flatprobe.pipeline.progress import Progress
from flatprobe.pipeline.stage import Resources, Stage


@dataclass(frozen=True)
class Task:
    """One stage with the places it reads from and writes to."""

    name: str
    key: str
    kind: str
    function: str
    version: int
    settings_json: str
    input_records: Mapping[str, InputRecord]
    input_folders: Mapping[str, Path]
    output: Path
    """An existing empty folder."""
    log: Path
    """Gets all that the process writes while the stage runs, appended."""
    resume: Path
    """Where the stage may keep what its next attempt can use; need not exist."""
    resources: Resources


@dataclass(frozen=True)
class Finished:
    """The output folder is whole, with its manifest."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """The stage raised, or its process died; the cause is the end of the story, the log holds all of it."""

    cause: str


@dataclass(frozen=True)
class Refused:
    """The stage found that the user asked for something that cannot be done."""

    problems: tuple[Problem, ...]


Outcome = Finished | Failed | Refused


class Executor(Protocol):
    """Where stages run. The seam for clusters: nothing else in the pipeline knows about processes."""

    slots: int
    """How many stages it runs at a time."""

    def start(self, task: Task) -> None:
        """Begin a stage; the caller keeps to `slots`."""

    def wait(self, on_progress: Callable[[Task, Progress], None]) -> tuple[Task, Outcome]:
        """The next stage that comes to its end; progress of all is passed on meanwhile."""

    def close(self) -> None:
        """Stop what is under way, and give back all processes."""


def make_task(stage: Stage, inputs: Mapping[str, Artifact], output: Path, log: Path, resume: Path) -> Task:
    """The task of a stage whose inputs are all finished: `inputs` maps each of its roles to an artifact."""
    return Task(
        name=stage.name,
        key=stage.key,
        kind=stage.kind,
        function=stage.function,
        version=stage.version,
        settings_json=stage.settings_json,
        input_records={
            role: InputRecord(name=needed.name, key=needed.key, content=inputs[role].manifest.content)
            for role, needed in stage.inputs.items()
        },
        # Absolute, so that a stage may change its working directory.
        input_folders={role: inputs[role].folder.resolve() for role in stage.inputs},
        output=output.resolve(),
        log=log.resolve(),
        resume=resume.resolve(),
        resources=stage.resources,
    )
