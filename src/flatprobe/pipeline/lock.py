"""One run at a time in a run folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flatprobe.errors import UserError
from flatprobe.pipeline.events import utc_now


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder. The system releases it when the process ends, however it ends: none is left behind.

    Raises UserError, naming the holder, where another run is at work, and where the folder cannot be written.
    """
    holder = folder / "run.holder.json"  # beside the lock, as opening a lock file empties it
    lock = FileLock(folder / "run.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": utc_now()}))
    except Timeout:
        raise UserError.one(
            "lock.TODO",
            str(folder),
            f"another run is at work here: {_describe(holder)}",
            "wait for it, or stop it; what it has finished is kept",
        ) from None
    except OSError as error:
        lock.release()
        raise UserError.one(
            "lock.TODO",
            str(folder),
            f"the run folder cannot be written: {error.strerror or error}",
            "choose another folder",
        ) from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError):  # it has only just started, or is just ending
        return "a process that has not signed yet"
