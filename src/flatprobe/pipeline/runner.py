"""Computes what is missing, in order, and keeps a diary of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from flatprobe.errors import Interrupted, StageFailed, UserError
from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.display import Display
from flatprobe.pipeline.events import EventLog
from flatprobe.pipeline.executors import LocalExecutor
from flatprobe.pipeline.lock import run_lock
from flatprobe.pipeline.manifest import Damaged
from flatprobe.pipeline.stage import Stage, topological_order, walk
from flatprobe.pipeline.task import Executor, Failed, Refused, make_task


@dataclass(frozen=True)
class RunnerSettings:
    """How to run on this machine; part of no key."""

    threads: int | None = None
    """Threads of numerical libraries in a worker; None leaves it to them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set in workers, before they import anything heavy."""


@dataclass(frozen=True)
class RunSummary:
    """What a run did."""

    done: int
    """Stages computed."""
    reused: int
    """Stages whose artifacts were there already."""
    seconds: float
    artifacts: Mapping[str, Artifact]
    """By stage name; of several names for one computation, each is here."""


def run(
    targets: Sequence[Stage],
    folder: Path,
    machine: RunnerSettings | None = None,
    display: Display | None = None,
    executor: Executor | None = None,
) -> RunSummary:
    """Bring every target, and all it needs, to completion in a run folder; what is finished is reused.

    Workers are spawned, so a script that calls this does so under `if __name__ == "__main__":`.

    Raises UserError where the folder is in use or cannot be written and where a stage raises one, StageFailed
    where a stage raises anything else or its process dies, Interrupted on Ctrl-C, and ValueError for stages
    that have no key or share a name. What was finished always stays, and the next run goes on from there.
    """
    clock = time.monotonic()
    machine = machine or RunnerSettings()
    order = topological_order(targets)
    with (
        run_lock(folder),
        EventLog(folder / "events.jsonl") as events,
        closing(executor or LocalExecutor(machine.threads, machine.environment)) as at_work,
        display or Display() as shown,
    ):
        current = _Run(folder, events, at_work, shown, order)
        events.write("run_started", stages=len(order))
        for stage in order:
            current.complete(stage)
        seconds = time.monotonic() - clock
        events.write("run_finished", done=current.done, reused=current.reused, seconds=round(seconds, 3))
    artifacts = {stage.name: current.artifacts[stage.key] for stage in walk(targets)}
    return RunSummary(current.done, current.reused, seconds, artifacts)


class _Run:
    """What one run holds while it goes through the stages."""

    def __init__(
        self,
        folder: Path,
        events: EventLog,
        executor: Executor,
        display: Display,
        order: Sequence[Stage],
    ) -> None:
        self.store = ArtifactStore(folder)
        self.store.discard_partials(order)
        self.logs = folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.events = events
        self.executor = executor
        self.display = display
        self.artifacts: dict[str, Artifact] = {}
        self.done = self.reused = 0
        display.begin(len(order))

    def complete(self, stage: Stage) -> None:
        """See that the artifact of a stage, whose inputs are complete, is there."""
        inputs = {role: self.artifacts[needed.key] for role, needed in stage.inputs.items()}
        try:
            artifact = self._reusable(stage, inputs) or self._compute(stage, inputs)
        except KeyboardInterrupt:
            self.events.write("run_interrupted", stage=stage.name, key=stage.key)
            raise Interrupted(stage.name) from None
        self.artifacts[stage.key] = artifact

    def _reusable(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact | None:
        try:
            artifact = self.store.find_current(stage, inputs)
        except Damaged as damage:
            self.events.write("stage_damaged", stage=stage.name, key=stage.key, reason=str(damage))
            self.display.note(f"{stage.name} is computed again: {damage}")
            return None
        if artifact is not None:
            self.reused += 1
            self.events.write("stage_reused", stage=stage.name, key=stage.key)
            self.display.reused(stage.name)
        return artifact

    def _compute(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact:
        self.events.write("stage_started", stage=stage.name, key=stage.key)
        self.display.started(stage.name)
        clock = time.monotonic()
        log = self.logs / f"{stage.file_name}.log"
        partial = self.store.begin()
        try:
            task = make_task(stage, inputs, partial, log, self.store.resume(stage))
            outcome = self.executor.execute(task, self.display.progress)
            seconds = time.monotonic() - clock
            if isinstance(outcome, Refused):
                self._record_failure(stage, seconds, str(UserError(outcome.problems)))
                raise UserError(outcome.problems)
            if isinstance(outcome, Failed):
                self._record_failure(stage, seconds, outcome.cause)
                raise StageFailed(stage.name, outcome.cause, log)
            artifact = self.store.commit(partial, stage)
        finally:
            self.store.discard(partial)  # nothing is left of it once it is committed
        self.done += 1
        self.events.write("stage_finished", stage=stage.name, key=stage.key, seconds=round(seconds, 3))
        self.display.finished(stage.name, seconds)
        return artifact

    def _record_failure(self, stage: Stage, seconds: float, cause: str) -> None:
        self.events.write(
            "stage_failed", stage=stage.name, key=stage.key, seconds=round(seconds, 3), cause=cause
        )
        self.display.failed(stage.name, seconds)
