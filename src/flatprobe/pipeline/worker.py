"""The process that runs stages: its loop, and what happens around the call of a stage function."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import inspect
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flatprobe.errors import UserError
from flatprobe.pipeline.events import utc_now
from flatprobe.pipeline.manifest import Manifest, describe_files, read_facts, write_manifest
from flatprobe.pipeline.progress import listening
from flatprobe.pipeline.resume import Place, lasting
from flatprobe.pipeline.task import Failed, Finished, Outcome, Refused, Task
from flatprobe.provenance import Provenance, collect_provenance
from flatprobe.worker_cache import release

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
_LONGEST_CAUSE = 2000  # characters of an exception that are shown; some libraries print whole configurations

StageFunction = Callable[[Any, Mapping[str, Path], Path], None]


def serve(connection: Connection, threads: int | None, environment: Mapping[str, str]) -> None:
    """Run the tasks that arrive, one at a time, until the other end is closed.

    The process leads a session of its own: Ctrl-C in a terminal reaches the runner only, which then decides,
    and the process can be ended together with all that it started. It does not outlive even a killed runner.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was held back while this process started
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    # This process's own environment, set before any numerical library is imported: they read it only then.
    os.environ.update(environment)
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        if "torch" in sys.modules:  # a script that imports it at its top has it imported in this process, too
            sys.modules["torch"].set_num_threads(threads)
    faulthandler.enable()  # a crash in native code leaves its Python lines in the log
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        connection.send(_perform(task, connection, threads))


def _perform(task: Task, connection: Connection, threads: int | None) -> Outcome:
    _redirect_output(task)
    try:
        with listening(connection.send), lasting(Place(task.resume, task.key, task.name)):
            seconds = _run_and_seal(task, threads)
        return Finished(seconds)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return Refused(error.problems)
    except (
        BaseException
    ) as error:  # the one place that takes anything: it becomes the record of a failed stage
        traceback.print_exc()
        release()  # the stage may have left a model that it was given for reading half changed
        cause = "".join(traceback.format_exception_only(error)).strip()
        return Failed(cause if len(cause) <= _LONGEST_CAUSE else cause[:_LONGEST_CAUSE] + " …")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()  # the next stage shall find the memory of this one free


def _run_and_seal(task: Task, threads: int | None) -> float:
    """Call the stage function, then write the manifest. Returns the seconds that the function took."""
    started, clock = utc_now(), time.monotonic()
    function = _resolve(task.function)
    settings = _settings_type(function).validate_json(task.settings_json)
    function(settings, task.input_folders, task.output)
    seconds = time.monotonic() - clock
    manifest = Manifest(
        key=task.key,
        name=task.name,
        kind=task.kind,
        function=task.function,
        version=task.version,
        settings=json.loads(task.settings_json),
        inputs=dict(task.input_records),
        files=describe_files(task.output),
        started=started,
        seconds=round(seconds, 3),
        provenance=_provenance(threads),
        facts=read_facts(task.output),
    )
    write_manifest(task.output, manifest)
    return seconds


def _resolve(function: str) -> StageFunction:
    module, name = function.split(":")
    found: StageFunction = getattr(importlib.import_module(module), name)
    return found


def _settings_type(function: StageFunction) -> TypeAdapter[Any]:
    """The validator of the type that a stage function declares for its first parameter.

    So what runs is what was hashed, read back from the same JSON that the manifest records.
    """
    first = next(iter(inspect.signature(function).parameters))
    declared = typing.get_type_hints(function).get(first)
    if declared is None:
        raise TypeError(f"the stage function does not declare the type of its settings, `{first}`")
    return TypeAdapter(declared)


@cache
def _provenance(threads: int | None) -> Provenance:
    return collect_provenance(threads)


def _redirect_output(task: Task) -> None:
    """Send descriptors 1 and 2 to the log: so does what native code and child processes write."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(task.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # or the last words of a killed process would be lost
    sys.stderr.write(f"=== {utc_now()} {task.name} key {task.key} pid {os.getpid()}\n")


def _end_with_the_runner() -> None:
    """Wait for the end of the runner, then end this process and all that it started."""
    runner = multiprocessing.parent_process()
    if runner is not None:
        runner.join()
        os.killpg(0, signal.SIGKILL)
