"""Run tasks in worker processes on this machine. Warm workers run many tasks, fresh ones a single task."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

from flatprobe.pipeline.child_process import how_it_ended, signal_group
from flatprobe.pipeline.progress import Progress
from flatprobe.pipeline.task import Failed, Outcome, Task
from flatprobe.pipeline.worker import serve

_GRACE = 5.0  # seconds that a process has to end by itself
_POLL_INTERVAL = 1.0  # seconds between checks that workers are alive; their children may keep the pipe open
_LOG_LINES = 8  # of a dead worker's log in the message
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A process that runs one task at a time. At its start only the pipeline is imported."""

    def __init__(self, number: int, threads: int | None, environment: Mapping[str, str]) -> None:
        self.number = number
        self.task: Task | None = None
        """The running task, or the last one."""
        self.kept_input: Path | None = None
        """The artifact of its last task that it may still keep in memory (`Resources.affinity`)."""
        context = get_context("spawn")  # a fork would copy locks held by threads of numerical libraries
        self._connection, worker_end = context.Pipe()
        self._process = context.Process(
            target=serve, args=(worker_end, threads, dict(environment)), name=f"flatprobe-worker-{number}"
        )
        with _interrupts_blocked():
            self._process.start()
        worker_end.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def handles(self) -> tuple[Any, int]:
        """What to wait for: a message, or the end of the process."""
        return self._connection, self._process.sentinel

    def send(self, task: Task) -> None:
        """Send a task to the process."""
        self.task = task
        self.kept_input = _affinity_folder(task)
        with suppress(ConnectionError):  # the process may have died at its start; `poll` reports that
            self._connection.send(task)

    def poll(self, on_progress: Callable[[Task, Progress], None]) -> Outcome | None:
        """The outcome of its task, or None while it runs. If the process died, the outcome is a failure."""
        assert self.task is not None
        alive = self.alive  # checked first: messages from before the process ended still count
        while (message := self._receive()) is not None:
            if not isinstance(message, Progress):
                return message
            on_progress(self.task, message)
        return None if alive else Failed(_describe_death(self._process.exitcode, self.task.log))

    def end(self) -> None:
        """Let the process end by itself, then kill its remaining children."""
        self._connection.close()
        self._process.join(_GRACE)
        self._signal(signal.SIGKILL)
        self._process.join()

    def kill(self) -> None:
        """End the process and its children now."""
        self._connection.close()
        self._signal(signal.SIGTERM)
        self._process.join(_GRACE)
        self._signal(signal.SIGKILL)
        self._process.join()

    def _receive(self) -> Progress | Outcome | None:
        """The next message, or None if none is waiting or the connection is closed."""
        try:
            if self._connection.poll():
                message: Progress | Outcome = self._connection.recv()
                return message
        except (EOFError, ConnectionError):
            pass
        return None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the process and its children."""
        if self._process.pid is not None:
            signal_group(self._process.pid, number)
        if self._process.is_alive():  # it may not lead its own process group yet
            self._process.kill() if number is signal.SIGKILL else self._process.terminate()


class LocalExecutor:
    """Runs tasks on this machine, in at most `slots` processes. The first task starts the first process.

    With several GPUs, worker n sees only number n modulo `gpus` of the GPUs visible to this process.
    """

    def __init__(
        self, threads: int | None = None, environment: Mapping[str, str] | None = None, slots: int = 1, gpus: int = 1
    ) -> None:
        self.slots = slots
        self._threads, self._gpus = threads, gpus
        self._environment = dict(environment or {})
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []

    def submit(self, task: Task) -> None:
        """Start a task in a warm or fresh process, according to its resources."""
        fresh = task.resources.process == "fresh"
        if fresh and task.resources.kind == "gpu":
            self._end_idle()  # a GPU engine needs the whole device; a warm worker may hold part of its memory
        worker = self._new() if fresh else self._warm(task)
        self._busy.append(worker)
        worker.send(task)

    def wait(self, on_progress: Callable[[Task, Progress], None]) -> tuple[Task, Outcome]:
        """Wait for the next task that ends."""
        while True:
            wait_for_any([handle for worker in self._busy for handle in worker.handles], timeout=_POLL_INTERVAL)
            for worker in self._busy:
                if (outcome := worker.poll(on_progress)) is not None:
                    assert worker.task is not None
                    self._free(worker)
                    return worker.task, outcome

    def close(self) -> None:
        """End all processes; running tasks are stopped."""
        while self._busy:
            self._busy.pop().kill()
        self._end_idle()

    def _free(self, worker: Worker) -> None:
        """Make a warm worker idle after its task; end a fresh or dead one."""
        assert worker.task is not None
        self._busy.remove(worker)
        if worker.task.resources.process == "fresh" or not worker.alive:
            worker.end()
        else:
            self._idle.append(worker)

    def _warm(self, task: Task) -> Worker:
        """An idle worker, preferably one that may keep the task's affinity input in memory; else a new worker."""
        for dead in [worker for worker in self._idle if not worker.alive]:
            self._idle.remove(dead)
            dead.end()
        if not self._idle:
            return self._new()
        folder = _affinity_folder(task)
        preferred = [worker for worker in self._idle if folder and worker.kept_input == folder]
        worker = (preferred or self._idle)[-1]
        self._idle.remove(worker)
        return worker

    def _new(self) -> Worker:
        used = {worker.number for worker in [*self._idle, *self._busy]}
        number = next(number for number in count() if number not in used)
        return Worker(number, self._threads, {**self._environment, **self._one_gpu(number)})

    def _one_gpu(self, number: int) -> dict[str, str]:
        if self._gpus == 1:
            return {}
        visible = os.environ.get(VISIBLE_GPUS)
        names = visible.split(",") if visible else [str(gpu) for gpu in range(self._gpus)]
        return {VISIBLE_GPUS: names[number % min(self._gpus, len(names))]}

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()


def _affinity_folder(task: Task) -> Path | None:
    role = task.resources.affinity
    return None if role is None else task.input_folders.get(role)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while a process starts and inherits the block; this process receives the signal afterwards."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _describe_death(exit_code: int | None, log: Path) -> str:
    """How a process ended during a stage, and the last lines of its log."""
    how = f"its process {how_it_ended(exit_code)} before the stage was finished"
    if not log.exists():  # a worker opens the log before anything else
        return f"{how}: it could not start; is the script that runs the stages guarded by `__name__`?"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([how, *lines[-_LOG_LINES:]])
