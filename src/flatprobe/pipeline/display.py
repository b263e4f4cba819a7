"""What a person sees of a run, on standard error: live bars on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flatprobe.console import console, duration
from flatprobe.pipeline.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

_PAUSE_OF_PLAIN_PROGRESS = 30.0  # seconds: enough to see in the log of a batch job that it is alive


class Display:
    """Is told what happens, in order. This one shows nothing and is the base of those that do."""

    def begin(self, total: int) -> None:
        """A run of `total` stages begins."""

    def reused(self, stage: str) -> None:
        """The artifact of a stage was there already."""

    def started(self, stage: str) -> None:
        """A stage is being computed, until `finished` or `failed`; others may be at the same time."""

    def progress(self, stage: str, progress: Progress) -> None:
        """How far a stage is."""

    def finished(self, stage: str, seconds: float) -> None:
        """A stage was computed."""

    def failed(self, stage: str, seconds: float) -> None:
        """A stage ended without an artifact."""

    def note(self, text: str) -> None:
        """Something else worth knowing."""

    def close(self) -> None:
        """The run is over, one way or another."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def display_for_people() -> Display:
    """The live display where standard error is a terminal, plain lines otherwise."""
    return LiveDisplay() if console(stderr=True).is_terminal else PlainDisplay()


class PlainDisplay(Display):
    """A line where a stage starts and ends, one for all that is reused in a row, now and then progress."""

    def __init__(self) -> None:
        self._total = self._place = self._unsaid_reused = 0
        self._places: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def begin(self, total: int) -> None:
        self._total = total

    def reused(self, stage: str) -> None:
        self._place += 1
        self._unsaid_reused += 1

    def started(self, stage: str) -> None:
        self._say_reused()
        self._place += 1
        self._places[stage], self._said[stage] = self._place, time.monotonic()
        self._say(self._place, f"{stage}  started")

    def progress(self, stage: str, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said[stage] >= _PAUSE_OF_PLAIN_PROGRESS:
            self._said[stage] = now
            note = f"  {progress.note}" if progress.note else ""
            self._say(self._places[stage], f"{stage}  {progress.done} of {progress.total}{note}")

    def finished(self, stage: str, seconds: float) -> None:
        self._say(self._places[stage], f"{stage}  done in {duration(seconds)}")

    def failed(self, stage: str, seconds: float) -> None:
        self._say(self._places[stage], f"{stage}  failed after {duration(seconds)}")

    def note(self, text: str) -> None:
        self._say_reused()
        console(stderr=True).print(text, soft_wrap=True)

    def close(self) -> None:
        self._say_reused()

    def _say_reused(self) -> None:
        if self._unsaid_reused:
            self._say(self._place, f"{self._unsaid_reused} finished before, reused")
            self._unsaid_reused = 0

    def _say(self, place: int, text: str) -> None:
        width = len(str(self._total))
        console(stderr=True).print(f"[{place:>{width}}/{self._total}] {text}", soft_wrap=True)


class LiveDisplay(Display):
    """A bar for the stages of the run, and one for each that is under way; finished stages scroll by."""

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
        self._overall = self._bars.add_task("stages", total=None, note="")
        self._stages: dict[str, TaskID] = {}

    def begin(self, total: int) -> None:
        self._bars.update(self._overall, total=total)
        self._bars.start()

    def reused(self, stage: str) -> None:
        self._bars.advance(self._overall)

    def started(self, stage: str) -> None:
        self._stages[stage] = self._bars.add_task(stage, total=None, note="")

    def progress(self, stage: str, progress: Progress) -> None:
        bar = self._stages[stage]
        self._bars.update(bar, completed=progress.done, total=progress.total, note=progress.note)

    def finished(self, stage: str, seconds: float) -> None:
        self._bars.advance(self._overall)
        self._bars.remove_task(self._stages.pop(stage))
        self._console.print(f"✓ {stage}  {duration(seconds)}", style="green", soft_wrap=True)

    def failed(self, stage: str, seconds: float) -> None:
        self._bars.remove_task(self._stages.pop(stage))
        self._console.print(f"✗ {stage}  {duration(seconds)}", style="red", soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(text, style="yellow", soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()
