"""A lock file: at most one run at a time in a run folder."""

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
    """Lock the folder. The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        UserError: another run holds the lock (the message names its process), or the folder cannot be written.
    """
    holder = folder / "run.holder.json"  # a separate file, because opening a lock file empties it
    lock = FileLock(folder / "run.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": utc_now()}))
    except Timeout:
        raise UserError.one(
            "run.locked",
            str(folder),
            f"another run uses this folder: {_describe(holder)}",
            "wait for it or stop it; its finished stages are kept",
        ) from None
    except OSError as error:
        lock.release()
        raise UserError.one(
            "run.not_writable",
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
        record = json.loads(holder.read_text())
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    except (OSError, ValueError, KeyError):  # the other run is just starting or ending
        return "another process (it has not recorded its id yet)"
