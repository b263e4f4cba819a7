"""The event log of a run folder: one JSON object per line; runs only append."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

Event = Literal[
    "run_started",
    "stage_reused",
    "stage_damaged",
    "stage_started",
    "stage_finished",
    "stage_failed",
    "run_interrupted",
    "run_finished",
]


def utc_now() -> str:
    """The current time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class EventLog:
    """Appends to `events.jsonl`; each line is flushed when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # a run was killed while it wrote its last line

    def write(self, event: Event, **facts: str | int | float | None) -> None:
        """Append one line: time, event, process id and `facts`."""
        record = {"time": utc_now(), "event": event, "pid": os.getpid(), **facts}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
