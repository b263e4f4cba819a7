"""Progress reports of stage functions. Any function below a stage can report without extra arguments."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MIN_INTERVAL = 0.2  # seconds between two reports that are passed on


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of work, with an optional note (`epoch 2, loss 1.31`)."""

    done: int
    total: int
    note: str = ""


Listener = Callable[[Progress], None]

_listener: Listener | None = None


def report_progress(done: int, total: int, note: str = "") -> None:
    """Report that `done` of `total` units are done. No effect outside a worker, for example in tests."""
    if _listener is not None:
        _listener(Progress(done, total, note))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass this process's reports to `listener`: at most five a second, and always the last one (done = total)."""
    global _listener
    previous, _listener = _listener, _rate_limited(listener)
    try:
        yield
    finally:
        _listener = previous


def _rate_limited(listener: Listener) -> Listener:
    lock = threading.Lock()  # several threads may report, and a pipe takes one message at a time
    last_time = float("-inf")

    def pass_on(progress: Progress) -> None:
        nonlocal last_time
        with lock:
            now = time.monotonic()
            if now - last_time >= MIN_INTERVAL or progress.done >= progress.total:
                last_time = now
                listener(progress)

    return pass_on
