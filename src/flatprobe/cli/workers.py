"""From the machine file to how the runner and its workers go about it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from flatprobe.machine.local import Local, to_environment
from flatprobe.machine.schema import Machine
from flatprobe.pipeline.runner import RunnerSettings


def runner_settings(machine: Machine, locations: Mapping[str, str]) -> RunnerSettings:
    """How stages run here; `locations` is where local models and data lie, by fingerprint."""
    return RunnerSettings(
        threads=_threads(machine),
        environment=to_environment(Local.of(machine, locations)),
        workers=machine.workers,
        gpus=machine.gpus,
    )


def _threads(machine: Machine) -> int | None:
    """Threads of one worker. One alone is left to its libraries, which then take all cores."""
    if machine.threads is not None or machine.workers == 1:
        return machine.threads
    return max(1, cores() // machine.workers)


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
