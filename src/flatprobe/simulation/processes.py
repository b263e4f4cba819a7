"""Run a function over processes of one thread each. Imports nothing numerical: see `_start`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def spread(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    done: Callable[[Item], None] = lambda item: None,
) -> list[Result]:
    """Results of `function` in the order of the items, computed by `jobs` processes (1: this process).

    Calls `done` with each finished item, in the order in which they finish. An item's error, or an interruption, is
    raised and cancels all items that have not started.
    """
    results: list[Result] = []
    if jobs == 1:
        for item in items:
            results.append(function(item))
            done(item)
        return results
    # Spawned, not forked: a fork would copy locks held by threads of numerical libraries.
    pool = ProcessPoolExecutor(min(jobs, len(items)), get_context("spawn"), initializer=_start)
    try:
        futures: dict[Future[Result], Item] = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            future.result()
            done(futures[future])
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """Limit this worker to one thread, before its first item imports numpy, and leave Ctrl-C to the parent.

    Numerical libraries read the variables at import. With one thread per core in every process, all would be slower.
    """
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
