"""Signals and exit statuses of child processes. Each child leads a process group, so its children end with it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def signal_group(leader: int, number: signal.Signals) -> None:
    """Signal a process group, if it still exists; it outlives its leader while a child of the leader runs."""
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, if only zombies are left
        os.killpg(leader, number)


def group_is_gone(leader: int, patience: float) -> bool:
    """Whether no process of a group runs any more; waits up to `patience` seconds for it."""
    deadline = time.monotonic() + patience
    while _group_runs(leader):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def how_it_ended(status: int | None) -> str:
    """The words for an exit status: `ended with status 3`, or the signal for a negative one."""
    if status is None or status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    likely = " (the system does this when memory runs out)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{likely}"


def _group_runs(leader: int) -> bool:
    """Whether a process group has a member that is no zombie."""
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        return False
    records = list(Path("/proc").glob("[0-9]*/stat"))
    if not records:  # not Linux: only the signal can tell
        return True
    for record in records:
        with suppress(OSError):  # the process may end meanwhile
            state, _, group = record.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state not in "ZX":
                return True
    return False
