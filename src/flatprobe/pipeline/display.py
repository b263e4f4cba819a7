"""Displays of a run on standard error: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flatprobe.console import console, duration
from flatprobe.pipeline.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

_PLAIN_PROGRESS_INTERVAL = 30.0  # seconds; shows in a batch job's log that the job is alive


class Display:
    """Receives the events of a run in order. Base class of displays; shows nothing."""

    def begin(self, total: int) -> None:
        """The run of `total` stages starts."""

    def reused(self, stage: str) -> None:
        """The artifact of a stage exists and is reused."""

    def started(self, stage: str) -> None:
        """A stage starts; it runs until `finished` or `failed`. Several may run at the same time."""

    def progress(self, stage: str, progress: Progress) -> None:
        """A running stage reports its progress."""

    def finished(self, stage: str, seconds: float) -> None:
        """A stage was computed."""

    def failed(self, stage: str, seconds: float) -> None:
        """A stage ended without an artifact."""

    def note(self, text: str) -> None:
        """Show a message."""

    def close(self) -> None:
        """The run has ended, successfully or not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def display_for_people() -> Display:
    """The live display if standard error is a terminal, plain lines otherwise."""
    return LiveDisplay() if console(stderr=True).is_terminal else PlainDisplay()


class PlainDisplay(Display):
    """One line when a stage starts and one when it ends; one for consecutive reused stages; progress every 30 s."""

    def __init__(self) -> None:
        self._total = self._count = self._unprinted_reused = 0
        self._numbers: dict[str, int] = {}
        self._last_printed: dict[str, float] = {}

    def begin(self, total: int) -> None:
        self._total = total

    def reused(self, stage: str) -> None:
        self._count += 1
        self._unprinted_reused += 1

    def started(self, stage: str) -> None:
        self._print_reused()
        self._count += 1
        self._numbers[stage], self._last_printed[stage] = self._count, time.monotonic()
        self._print(self._count, f"{stage}  started")

    def progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last_printed[stage] >= _PLAIN_PROGRESS_INTERVAL:
            self._last_printed[stage] = now
            note = f"  {progress.note}" if progress.note else ""
            self._print(self._numbers[stage], f"{stage}  {progress.done} of {progress.total}{note}")

    def finished(self, stage: str, seconds: float) -> None:
        self._print(self._numbers[stage], f"{stage}  done in {duration(seconds)}")

    def failed(self, stage: str, seconds: float) -> None:
        self._print(self._numbers[stage], f"{stage}  failed after {duration(seconds)}")

    def note(self, text: str) -> None:
        self._print_reused()
        console(stderr=True).print(text, soft_wrap=True)

    def close(self) -> None:
        self._print_reused()

    def _print_reused(self) -> None:
        if self._unprinted_reused:
            self._print(self._count, f"{self._unprinted_reused} finished before, reused")
            self._unprinted_reused = 0

    def _print(self, number: int, text: str) -> None:
        width = len(str(self._total))
        console(stderr=True).print(f"[{number:>{width}}/{self._total}] {text}", soft_wrap=True)


class LiveDisplay(Display):
    """A bar for the whole run and one for each running stage; finished stages are printed above."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
            console=self._console,
            transient=True,
        )
        self._all_stages = self._bars.add_task("stages", total=None, note="")
        self._stages: dict[str, TaskID] = {}

    def begin(self, total: int) -> None:
        self._bars.update(self._all_stages, total=total)
        self._bars.start()

    def reused(self, stage: str) -> None:
        self._bars.advance(self._all_stages)

    def started(self, stage: str) -> None:
        self._stages[stage] = self._bars.add_task(stage, total=None, note="")

    def progress(self, stage: str, progress: Progress) -> None:
        bar = self._stages[stage]
        self._bars.update(bar, completed=progress.done, total=progress.total, note=progress.note)

    def finished(self, stage: str, seconds: float) -> None:
        self._bars.advance(self._all_stages)
        self._bars.remove_task(self._stages.pop(stage))
        self._console.print(f"✓ {stage}  {duration(seconds)}", style="green", soft_wrap=True)

    def failed(self, stage: str, seconds: float) -> None:
        self._bars.remove_task(self._stages.pop(stage))
        self._console.print(f"✗ {stage}  {duration(seconds)}", style="red", soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(text, style="yellow", soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()
