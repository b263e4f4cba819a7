"""The worker process: receives tasks, calls their stage functions, and writes the manifests."""

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
from flatprobe.pipeline.resume import ResumeFolder, use_resume_folder
from flatprobe.pipeline.task import Failed, Finished, Outcome, Refused, Task
from flatprobe.provenance import Provenance, collect_provenance
from flatprobe.worker_cache import release

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
_LONGEST_CAUSE = 2000  # characters of an error; some libraries put whole configurations into theirs

StageFunction = Callable[[Any, Mapping[str, Path], Path], None]


def serve(connection: Connection, threads: int | None, environment: Mapping[str, str]) -> None:
    """Run incoming tasks one at a time until the runner closes the connection.

    The process leads its own session: Ctrl-C in a terminal reaches only the runner, and the process can be killed
    together with its children. It ends when the runner ends, even if the runner is killed.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked while this process started
    threading.Thread(target=_end_with_runner, daemon=True).start()
    # Set before numerical libraries are imported: they read the environment only then.
    os.environ.update(environment)
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        if "torch" in sys.modules:  # the user's script imports it at its top, and spawn imports the script
            sys.modules["torch"].set_num_threads(threads)
    faulthandler.enable()  # writes the Python stack to the log if native code crashes
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        connection.send(_perform(task, connection, threads))


def _perform(task: Task, connection: Connection, threads: int | None) -> Outcome:
    _redirect_output(task)
    try:
        resume_folder = ResumeFolder(task.resume_folder, task.key, task.name)
        with listening(connection.send), use_resume_folder(resume_folder):
            seconds = _run_stage(task, threads)
        return Finished(seconds)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return Refused(error.problems)
    except BaseException as error:  # any error is reported as a failed stage
        traceback.print_exc()
        release()  # the stage may have left a cached model modified
        cause = "".join(traceback.format_exception_only(error)).strip()
        return Failed(cause if len(cause) <= _LONGEST_CAUSE else cause[:_LONGEST_CAUSE] + " …")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()  # free this stage's memory before the next stage


def _run_stage(task: Task, threads: int | None) -> float:
    """Call the stage function, then write the manifest. Returns the function's wall time in seconds."""
    started, clock = utc_now(), time.monotonic()
    function = _import_function(task.function)
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


def _import_function(import_string: str) -> StageFunction:
    module, name = import_string.split(":")
    function: StageFunction = getattr(importlib.import_module(module), name)
    return function


def _settings_type(function: StageFunction) -> TypeAdapter[Any]:
    """The validator of the type that a stage function declares for its first parameter.

    It reads the settings from the same JSON that is hashed and recorded in the manifest.
    """
    parameter = next(iter(inspect.signature(function).parameters))
    settings_type = typing.get_type_hints(function).get(parameter)
    if settings_type is None:
        raise TypeError(f"the stage function does not declare the type of its settings, `{parameter}`")
    return TypeAdapter(settings_type)


@cache
def _provenance(threads: int | None) -> Provenance:
    return collect_provenance(threads)


def _redirect_output(task: Task) -> None:
    """Redirect file descriptors 1 and 2 to the log, including output of native code and child processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(task.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # keeps the last lines of a killed process
    sys.stderr.write(f"=== {utc_now()} {task.name} key {task.key} pid {os.getpid()}\n")


def _end_with_runner() -> None:
    """Wait until the runner ends, then kill this process and its children."""
    runner = multiprocessing.parent_process()
    if runner is not None:
        runner.join()
        os.killpg(0, signal.SIGKILL)
