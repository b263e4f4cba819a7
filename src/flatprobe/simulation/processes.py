"""Work spread over processes of one thread each. Imports nothing numerical: see `_start`."""

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
    """`function` of every item, in the order of the items, by `jobs` processes (1: in this one).

    `done` is told of each finished item, in the order in which they finish. An error of an item, or an interruption,
    ends what is not yet begun and is raised here.
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
    """Of a worker's own process, before its first item makes it import numpy: the libraries read this only then.

    As many threads as cores in each of as many processes would slow all of them down. Ctrl-C is the parent's.
    """
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
