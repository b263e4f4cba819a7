"""Computes what is missing, several stages at a time where there are workers for it, and keeps a diary of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from flatprobe.errors import Interrupted, StageFailed, UserError
from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.changes import why_computed
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
    workers: int = 1
    """Stages computed at a time."""
    gpus: int = 1
    """GPUs that the workers share out among themselves."""


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
    on_finished: Callable[[Stage, Artifact], None] | None = None,
) -> RunSummary:
    """Bring every target, and all it needs, to completion in a run folder; what is finished is reused.

    Workers are spawned, so a script that calls this does so under `if __name__ == "__main__":`.

    Stages are handed out in order, each as soon as what it needs is there. Where one fails, those under way are let
    finish, and no other is begun.

    `on_finished` is called with each stage and its artifact as soon as the artifact exists, computed or reused.

    Raises UserError where the folder is in use or cannot be written and where a stage raises one, StageFailed
    where a stage raises anything else or its process dies, Interrupted on Ctrl-C, and ValueError for stages
    that have no key or share a name. What was finished always stays, and the next run goes on from there.
    """
    clock = time.monotonic()
    machine = machine or RunnerSettings()
    order = topological_order(targets)
    local = LocalExecutor(machine.threads, machine.environment, machine.workers, machine.gpus)
    with (
        run_lock(folder),
        EventLog(folder / "events.jsonl") as events,
        closing(executor or local) as at_work,
        display or Display() as shown,
    ):
        current = _Run(folder, events, at_work, shown, order, on_finished)
        events.write("run_started", stages=len(order))
        current.complete()
        seconds = time.monotonic() - clock
        events.write("run_finished", done=current.done, reused=current.reused, seconds=round(seconds, 3))
    artifacts = {stage.name: current.artifacts[stage.key] for stage in walk(targets)}
    return RunSummary(current.done, current.reused, seconds, artifacts)


@dataclass(frozen=True)
class _UnderWay:
    stage: Stage
    partial: Path
    clock: float


class _Run:
    """What one run holds while it goes through the stages."""

    def __init__(
        self,
        folder: Path,
        events: EventLog,
        executor: Executor,
        display: Display,
        order: Sequence[Stage],
        on_finished: Callable[[Stage, Artifact], None] | None,
    ) -> None:
        self.store = ArtifactStore(folder)
        self.store.discard_partials(order)
        self.logs = folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.events = events
        self.executor = executor
        self.display = display
        self.on_finished = on_finished
        self.artifacts: dict[str, Artifact] = {}
        self.waiting = list(order)
        self.under_way: dict[str, _UnderWay] = {}
        self.failures: list[StageFailed | UserError] = []
        self.done = self.reused = 0
        display.begin(len(order))

    def complete(self) -> None:
        """See that the artifact of every stage is there."""
        try:
            while self.waiting or self.under_way:
                if not self.failures:
                    self._hand_out()
                if not self.under_way:
                    break
                self._take_in()
        except KeyboardInterrupt:
            if self.failures:  # the interruption only cuts short the wait behind them
                self._raise_failures()
            names = [work.stage.name for work in self.under_way.values()]
            self.events.write("run_interrupted", stage=", ".join(names))
            raise Interrupted(", ".join(names) or None) from None
        finally:  # nobody may write into a partial folder while it is removed
            self.executor.close()
            for work in self.under_way.values():
                self.store.discard(work.partial)
        self._raise_failures()

    def _hand_out(self) -> None:
        """Reuse or begin, in order, what has its inputs, until all slots are taken."""
        for stage in list(self.waiting):
            if len(self.under_way) == self.executor.slots:
                return
            if all(needed.key in self.artifacts for needed in stage.inputs.values()):
                self.waiting.remove(stage)
                inputs = {role: self.artifacts[needed.key] for role, needed in stage.inputs.items()}
                artifact = self._reusable(stage, inputs)
                if artifact is None:
                    self._begin(stage, inputs)
                else:
                    self._keep(stage, artifact)

    def _reusable(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact | None:
        try:
            artifact = self.store.find_current(stage, inputs)
        except Damaged as damage:
            self.events.write("stage_damaged", stage=stage.name, key=stage.key, reason=str(damage))
            self.display.note(f"{stage.name} is computed again: {damage}")
            return None
        if artifact is None and (why := why_computed(stage, self.store)) is not None:
            self.display.note(f"{stage.name} is computed again: {why}")
        if artifact is not None:
            self.reused += 1
            self.events.write("stage_reused", stage=stage.name, key=stage.key)
            self.display.reused(stage.name)
        return artifact

    def _begin(self, stage: Stage, inputs: Mapping[str, Artifact]) -> None:
        self.events.write("stage_started", stage=stage.name, key=stage.key)
        self.display.started(stage.name)
        work = _UnderWay(stage, self.store.begin(), time.monotonic())
        self.under_way[stage.key] = work
        log = self.logs / f"{stage.file_name}.log"
        self.executor.start(make_task(stage, inputs, work.partial, log, self.store.resume(stage)))

    def _take_in(self) -> None:
        """Wait for the next stage to end, and keep what it made or how it failed."""
        task, outcome = self.executor.wait(lambda task, progress: self.display.progress(task.name, progress))
        work = self.under_way[task.key]
        seconds = time.monotonic() - work.clock
        if isinstance(outcome, Refused):
            self._fail(work, seconds, UserError(outcome.problems), str(UserError(outcome.problems)))
        elif isinstance(outcome, Failed):
            self._fail(work, seconds, StageFailed(task.name, outcome.cause, task.log), outcome.cause)
        else:
            artifact = self.store.commit(work.partial, work.stage)
            self.done += 1
            self.events.write("stage_finished", stage=task.name, key=task.key, seconds=round(seconds, 3))
            self.display.finished(task.name, seconds)
            self._keep(work.stage, artifact)
        del self.under_way[task.key]

    def _keep(self, stage: Stage, artifact: Artifact) -> None:
        self.artifacts[stage.key] = artifact
        if self.on_finished is not None:
            self.on_finished(stage, artifact)

    def _fail(self, work: _UnderWay, seconds: float, error: StageFailed | UserError, cause: str) -> None:
        name, key = work.stage.name, work.stage.key
        self.store.discard(work.partial)
        self.events.write("stage_failed", stage=name, key=key, seconds=round(seconds, 3), cause=cause)
        self.display.failed(name, seconds)
        self.failures.append(error)
        if len(self.under_way) > 1:
            self.display.note(f"{cause}\nWhat is under way is let finish; nothing else is begun.")

    def _raise_failures(self) -> None:
        """Raise the first stage that failed, or all problems of those that refused."""
        for error in self.failures:
            if isinstance(error, StageFailed):
                raise error
        problems = [
            problem for error in self.failures if isinstance(error, UserError) for problem in error.problems
        ]
        if problems:
            raise UserError(problems)
