"""Runs the stages that have no artifact yet, on one or several workers, and logs events."""

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
    """How to run on this machine; not part of any key."""

    threads: int | None = None
    """Threads of numerical libraries in a worker. None: each library decides."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of workers, set before heavy packages are imported."""
    workers: int = 1
    """Maximum number of stages that run at the same time."""
    gpus: int = 1
    """Number of GPUs, distributed over the workers."""


@dataclass(frozen=True)
class RunSummary:
    """Result of a run."""

    done: int
    """Stages computed."""
    reused: int
    """Stages whose artifacts existed."""
    seconds: float
    artifacts: Mapping[str, Artifact]
    """By stage name. If one computation has several names, each is listed."""


def run(
    targets: Sequence[Stage],
    folder: Path,
    machine: RunnerSettings | None = None,
    display: Display | None = None,
    executor: Executor | None = None,
    on_finished: Callable[[Stage, Artifact], None] | None = None,
) -> RunSummary:
    """Compute every target and all its inputs in a run folder; existing artifacts are reused.

    Stages are submitted in order, each as soon as its inputs exist. After a failure, running stages finish and no new
    stage starts. Finished stages stay after any error, and the next run continues from them. Workers are spawned, so a
    script must call this under `if __name__ == "__main__":`.

    Args:
        executor: where stages run. Default: worker processes on this machine.
        on_finished: called with each stage and its artifact as soon as the artifact exists, computed or reused.

    Raises:
        UserError: the folder is locked or cannot be written, or a stage raised a UserError.
        StageFailed: a stage raised any other error, or its process died.
        Interrupted: Ctrl-C.
        ValueError: a stage has no key, or two stages share a name.
    """
    clock = time.monotonic()
    machine = machine or RunnerSettings()
    order = topological_order(targets)
    local = LocalExecutor(machine.threads, machine.environment, machine.workers, machine.gpus)
    with (
        run_lock(folder),
        EventLog(folder / "events.jsonl") as events,
        closing(executor or local) as opened_executor,
        display or Display() as opened_display,
    ):
        current = _Run(folder, events, opened_executor, opened_display, order, on_finished)
        events.write("run_started", stages=len(order))
        current.complete()
        seconds = time.monotonic() - clock
        events.write("run_finished", done=current.done, reused=current.reused, seconds=round(seconds, 3))
    artifacts = {stage.name: current.artifacts[stage.key] for stage in walk(targets)}
    return RunSummary(current.done, current.reused, seconds, artifacts)


@dataclass(frozen=True)
class _Running:
    stage: Stage
    partial: Path
    clock: float


class _Run:
    """The state of one run: queued and running stages, artifacts, failures."""

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
        self.queued = list(order)
        self.running: dict[str, _Running] = {}
        self.failures: list[StageFailed | UserError] = []
        self.done = self.reused = 0
        display.begin(len(order))

    def complete(self) -> None:
        """Compute or reuse every stage. Raises as `run`."""
        try:
            while self.queued or self.running:
                if not self.failures:
                    self._submit_ready()
                if not self.running:
                    break
                self._collect_next()
        except KeyboardInterrupt:
            if self.failures:  # a failure matters more than the interrupted wait for other stages
                self._raise_failures()
            names = [running.stage.name for running in self.running.values()]
            self.events.write("run_interrupted", stage=", ".join(names))
            raise Interrupted(", ".join(names) or None) from None
        finally:
            self.executor.close()  # first: no process may write into a partial folder while it is removed
            for running in self.running.values():
                self.store.discard(running.partial)
        self._raise_failures()

    def _submit_ready(self) -> None:
        """Reuse or submit queued stages whose inputs exist, in order, until all slots are used."""
        for stage in list(self.queued):
            if len(self.running) == self.executor.slots:
                return
            if all(upstream.key in self.artifacts for upstream in stage.inputs.values()):
                self.queued.remove(stage)
                inputs = {role: self.artifacts[upstream.key] for role, upstream in stage.inputs.items()}
                artifact = self._find_reusable(stage, inputs)
                if artifact is None:
                    self._submit(stage, inputs)
                else:
                    self._add_artifact(stage, artifact)

    def _find_reusable(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact | None:
        try:
            artifact = self.store.find_current(stage, inputs)
        except Damaged as damage:
            self.events.write("stage_damaged", stage=stage.name, key=stage.key, reason=str(damage))
            self.display.note(f"{stage.name} is computed again: {damage}")
            return None
        if artifact is None:
            if (why := why_computed(stage, self.store)) is not None:
                self.display.note(f"{stage.name} is computed again: {why}")
        else:
            self.reused += 1
            self.events.write("stage_reused", stage=stage.name, key=stage.key)
            self.display.reused(stage.name)
        return artifact

    def _submit(self, stage: Stage, inputs: Mapping[str, Artifact]) -> None:
        self.events.write("stage_started", stage=stage.name, key=stage.key)
        self.display.started(stage.name)
        running = _Running(stage, self.store.new_partial(), time.monotonic())
        self.running[stage.key] = running
        log = self.logs / f"{stage.file_name}.log"
        task = make_task(stage, inputs, running.partial, log, self.store.resume_folder(stage))
        self.executor.submit(task)

    def _collect_next(self) -> None:
        """Wait for the next stage that ends, and record its artifact or its failure."""
        task, outcome = self.executor.wait(lambda task, progress: self.display.progress(task.name, progress))
        running = self.running[task.key]
        seconds = time.monotonic() - running.clock
        if isinstance(outcome, Refused):
            refusal = UserError(outcome.problems)
            self._fail(running, seconds, refusal, str(refusal))
        elif isinstance(outcome, Failed):
            self._fail(running, seconds, StageFailed(task.name, outcome.cause, task.log), outcome.cause)
        else:
            artifact = self.store.commit(running.partial, running.stage)
            self.done += 1
            self.events.write("stage_finished", stage=task.name, key=task.key, seconds=round(seconds, 3))
            self.display.finished(task.name, seconds)
            self._add_artifact(running.stage, artifact)
        del self.running[task.key]

    def _add_artifact(self, stage: Stage, artifact: Artifact) -> None:
        self.artifacts[stage.key] = artifact
        if self.on_finished is not None:
            self.on_finished(stage, artifact)

    def _fail(self, running: _Running, seconds: float, error: StageFailed | UserError, cause: str) -> None:
        name, key = running.stage.name, running.stage.key
        self.store.discard(running.partial)
        self.events.write("stage_failed", stage=name, key=key, seconds=round(seconds, 3), cause=cause)
        self.display.failed(name, seconds)
        self.failures.append(error)
        if len(self.running) > 1:
            self.display.note(f"{cause}\nRunning stages will finish; no new stage will start.")

    def _raise_failures(self) -> None:
        """Raise the first StageFailed; if there is none, all problems of all UserErrors together."""
        for error in self.failures:
            if isinstance(error, StageFailed):
                raise error
        problems = [problem for error in self.failures if isinstance(error, UserError) for problem in error.problems]
        if problems:
            raise UserError(problems)
