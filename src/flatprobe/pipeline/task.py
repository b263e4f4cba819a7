"""Messages between runner and worker. All can be pickled and need no class of a stage's own module."""

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
    """One stage with its input and output folders."""

    name: str
    key: str
    kind: str
    function: str
    version: int
    settings_json: str
    input_records: Mapping[str, InputRecord]
    input_folders: Mapping[str, Path]
    output: Path
    """An empty folder that exists."""
    log: Path
    """The process's standard output and error are appended while the stage runs."""
    resume_folder: Path
    """Folder of files that let the stage resume; need not exist."""
    resources: Resources


@dataclass(frozen=True)
class Finished:
    """The output folder is complete, with its manifest."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """The stage raised an error or its process died. `cause` is the last line or lines; the log has everything."""

    cause: str


@dataclass(frozen=True)
class Refused:
    """The stage raised a UserError: the user's request cannot be carried out."""

    problems: tuple[Problem, ...]


Outcome = Finished | Failed | Refused


class Executor(Protocol):
    """Runs tasks somewhere. The rest of the pipeline knows nothing of processes, so a cluster needs only this class."""

    slots: int
    """Maximum number of running tasks."""

    def submit(self, task: Task) -> None:
        """Start a task. The caller submits at most `slots` at a time."""

    def wait(self, on_progress: Callable[[Task, Progress], None]) -> tuple[Task, Outcome]:
        """Wait for the next task that ends; progress of all tasks is passed on meanwhile."""

    def close(self) -> None:
        """Stop running tasks and end all processes."""


def make_task(stage: Stage, inputs: Mapping[str, Artifact], output: Path, log: Path, resume_folder: Path) -> Task:
    """The task of a stage whose inputs are all finished; `inputs` maps each role to its artifact."""
    return Task(
        name=stage.name,
        key=stage.key,
        kind=stage.kind,
        function=stage.function,
        version=stage.version,
        settings_json=stage.settings_json,
        input_records={
            role: InputRecord(name=upstream.name, key=upstream.key, content=inputs[role].manifest.content)
            for role, upstream in stage.inputs.items()
        },
        # Absolute paths, because a stage may change its working directory.
        input_folders={role: inputs[role].folder.resolve() for role in stage.inputs},
        output=output.resolve(),
        log=log.resolve(),
        resume_folder=resume_folder.resolve(),
        resources=stage.resources,
    )
