"""Stages in processes of this machine: warm workers for most, an own process for those that ask for it."""

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

_GRACE = 5.0  # seconds that a process gets to end by itself
_LOOK = 1.0  # seconds between two looks at whether a worker is alive: its children may hold its pipes open
_LINES_OF_A_DEAD_WORKER = 8
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A process that runs one task at a time, started with nothing imported but the pipeline."""

    def __init__(self, number: int, threads: int | None, environment: Mapping[str, str]) -> None:
        self.number = number
        self.task: Task | None = None
        """What it is at work on."""
        self.checkpoint: Path | None = None
        """The checkpoint of its last task: it may still hold it."""
        context = get_context("spawn")  # a fork would copy locks held by threads of numerical libraries
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, threads, dict(environment)), name=f"flatprobe-worker-{number}"
        )
        with _interrupts_held_back():
            self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can take a task."""
        return self._process.is_alive()

    @property
    def handles(self) -> tuple[Any, int]:
        """What to wait for: its messages, and its end."""
        return self._connection, self._process.sentinel

    def begin(self, task: Task) -> None:
        """Hand it a task."""
        self.task = task
        self.checkpoint = task.input_folders.get("checkpoint")
        with suppress(ConnectionError):  # it may have died as it started, which is seen when it is looked at
            self._connection.send(task)

    def look(self, on_progress: Callable[[Task, Progress], None]) -> Outcome | None:
        """How its task ended, or None while it is at work; a worker that dies on it is a failure like any other."""
        assert self.task is not None
        alive = self.alive  # looked at first: what a worker said before it ended still counts
        while (message := self._message()) is not None:
            if not isinstance(message, Progress):
                return message
            on_progress(self.task, message)
        return None if alive else Failed(_death(self._process.exitcode, self.task.log))

    def end(self) -> None:
        """Let it end by itself, then end whatever it has left running."""
        self._connection.close()
        self._process.join(_GRACE)
        self._signal(signal.SIGKILL)
        self._process.join()

    def kill(self) -> None:
        """End it now, and all that it started."""
        self._connection.close()
        self._signal(signal.SIGTERM)
        self._process.join(_GRACE)
        self._signal(signal.SIGKILL)
        self._process.join()

    def _message(self) -> Progress | Outcome | None:
        """The next message, or None where there is none (yet, or any more)."""
        try:
            if self._connection.poll():
                message: Progress | Outcome = self._connection.recv()
                return message
        except (EOFError, ConnectionError):
            pass
        return None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the worker and all that it started."""
        if self._process.pid is not None:
            signal_group(self._process.pid, number)
        if self._process.is_alive():  # it may not lead a group of its own yet
            self._process.kill() if number is signal.SIGKILL else self._process.terminate()


class LocalExecutor:
    """Runs tasks here. Starts no process before the first task, and no more than `slots`.

    Worker n of several sees GPU n modulo `gpus` alone, of those that this process may see.
    """

    def __init__(
        self,
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
        slots: int = 1,
        gpus: int = 1,
    ) -> None:
        self.slots = slots
        self._threads, self._gpus = threads, gpus
        self._environment = dict(environment or {})
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []

    def start(self, task: Task) -> None:
        """Begin a task in a warm worker or in a process of its own, as its resources ask for."""
        fresh = task.resources.process == "fresh"
        if fresh and task.resources.kind == "gpu":
            self._end_idle()  # a GPU engine wants the whole device, and a warm worker may hold a part of it
        worker = self._new() if fresh else self._warm(task)
        self._busy.append(worker)
        worker.begin(task)

    def wait(self, on_progress: Callable[[Task, Progress], None]) -> tuple[Task, Outcome]:
        """The next task that comes to its end."""
        while True:
            wait_for_any([handle for worker in self._busy for handle in worker.handles], timeout=_LOOK)
            for worker in self._busy:
                if (outcome := worker.look(on_progress)) is not None:
                    assert worker.task is not None
                    self._leave(worker)
                    return worker.task, outcome

    def close(self) -> None:
        """End all workers; those at work are stopped."""
        while self._busy:
            self._busy.pop().kill()
        self._end_idle()

    def _leave(self, worker: Worker) -> None:
        """Take a worker off its task; only a warm one that lives is kept."""
        assert worker.task is not None
        self._busy.remove(worker)
        if worker.task.resources.process == "fresh" or not worker.alive:
            worker.end()  # and whatever it has left running
        else:
            self._idle.append(worker)

    def _warm(self, task: Task) -> Worker:
        """An idle worker, one that may hold the task's checkpoint before others; else a new one."""
        for dead in [worker for worker in self._idle if not worker.alive]:
            self._idle.remove(dead)
            dead.end()  # ends what it may have left running
        if not self._idle:
            return self._new()
        checkpoint = task.input_folders.get("checkpoint")
        fitting = [worker for worker in self._idle if checkpoint and worker.checkpoint == checkpoint]
        chosen = (fitting or self._idle)[-1]
        self._idle.remove(chosen)
        return chosen

    def _new(self) -> Worker:
        taken = {worker.number for worker in [*self._idle, *self._busy]}
        number = next(number for number in count() if number not in taken)
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


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C from a starting process, which inherits this, until it can ignore it; we get it after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _death(exit_code: int | None, log: Path) -> str:
    """How a worker ended in the middle of a stage, with the last lines that it wrote."""
    how = f"its process {how_it_ended(exit_code)} before the stage was finished"
    if not log.exists():  # the first thing that a worker does with a task is to open its log
        return f"{how}: it could not start; is the script that runs the stages guarded by `__name__`?"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([how, *lines[-_LINES_OF_A_DEAD_WORKER:]])
