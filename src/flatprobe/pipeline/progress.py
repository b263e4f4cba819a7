"""How a stage function says how far it is, from any depth and without being handed anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SHORTEST_PAUSE = 0.2  # seconds between two reports that are passed on: more than a person could read


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of work, which the note may name (`epoch 2, loss 1.31`)."""

    done: int
    total: int
    note: str = ""


Listener = Callable[[Progress], None]

_listener: Listener | None = None


def report_progress(done: int, total: int, note: str = "") -> None:
    """Say that `done` of `total` units are done. Does nothing outside a worker, so tests can call stages."""
    if _listener is not None:
        _listener(Progress(done, total, note))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass reports of this process on to `listener`: a few a second, the last one (done = total) always."""
    global _listener
    before, _listener = _listener, _limited(listener)
    try:
        yield
    finally:
        _listener = before


def _limited(listener: Listener) -> Listener:
    lock = threading.Lock()  # stages may report from several threads, and a pipe takes one message at a time
    passed_on = float("-inf")

    def pass_on(progress: Progress) -> None:
        nonlocal passed_on
        with lock:
            now = time.monotonic()
            if now - passed_on >= SHORTEST_PAUSE or progress.done >= progress.total:
                passed_on = now
                listener(progress)

    return pass_on
