"""Wait for other processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 20.0  # seconds


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until the condition holds. Fails after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] in ("", "Z")
