"""Stages in processes of this machine: one warm worker for most, an own process for those that ask for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

from flatprobe.pipeline.progress import Progress
from flatprobe.pipeline.task import Failed, Outcome, Task
from flatprobe.pipeline.worker import serve

_GRACE = 5.0  # seconds that a process gets to end by itself
_LOOK = 1.0  # seconds between two looks at whether a worker is alive: its children may hold its pipes open
_LINES_OF_A_DEAD_WORKER = 8


class Worker:
    """A process that runs one task at a time, started with nothing imported but the pipeline."""

    def __init__(self, threads: int | None, environment: Mapping[str, str]) -> None:
        context = get_context("spawn")  # a fork would copy locks held by threads of numerical libraries
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, threads, dict(environment)), name="flatprobe-worker"
        )
        with _interrupts_held_back():
            self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can take a task."""
        return self._process.is_alive()

    def execute(self, task: Task, on_progress: Callable[[Progress], None]) -> Outcome:
        """Run a task; a worker that dies on it is a failure like any other."""
        with suppress(ConnectionError):  # it may have died as it started, which is seen below
            self._connection.send(task)
        while True:
            wait([self._connection, self._process.sentinel], timeout=_LOOK)
            alive = (
                self._process.is_alive()
            )  # looked at first: what a worker said before it ended still counts
            while (message := self._message()) is not None:
                if not isinstance(message, Progress):
                    return message
                on_progress(message)
            if not alive:
                return Failed(_death(self._process.exitcode, task.log))

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
        """Signal the worker's process group; it outlives its leader as long as a child of the worker does."""
        pid = self._process.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)
        if self._process.is_alive():  # it may not lead a group of its own yet
            self._process.kill() if number is signal.SIGKILL else self._process.terminate()


class LocalExecutor:
    """Runs tasks here. Starts no process before the first task."""

    def __init__(self, threads: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._threads = threads
        self._environment = dict(environment or {})
        self._warm: Worker | None = None

    def execute(self, task: Task, on_progress: Callable[[Progress], None]) -> Outcome:
        """Run a task in the warm worker or in a process of its own, as its resources ask for."""
        fresh = task.resources.process == "fresh"
        if fresh and task.resources.kind == "gpu":
            self.close()  # a GPU engine wants the whole device, and the warm worker may hold a part of it
        worker = self._start() if fresh else self._warm_worker()
        returned = False
        try:
            outcome = worker.execute(task, on_progress)
            returned = True
        finally:
            if not returned:
                worker.kill()
        if fresh:
            worker.end()
        return outcome

    def close(self) -> None:
        """End the warm worker, if there is one."""
        worker, self._warm = self._warm, None
        if worker is not None:
            worker.end()

    def _warm_worker(self) -> Worker:
        if self._warm is not None and not self._warm.alive:
            self.close()  # ends what the dead worker may have left running
        if self._warm is None:
            self._warm = self._start()
        return self._warm

    def _start(self) -> Worker:
        return Worker(self._threads, self._environment)


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
    if exit_code is not None and exit_code < 0:
        how = f"its process was killed by {signal.Signals(-exit_code).name}"
        if -exit_code == signal.SIGKILL:
            how += ", as the system does when memory runs out"
    else:
        how = f"its process ended with status {exit_code} before the stage did"
    if not log.exists():  # the first thing that a worker does with a task is to open its log
        return f"{how}: it could not start; is the script that runs the stages guarded by `__name__`?"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([how, *lines[-_LINES_OF_A_DEAD_WORKER:]])
