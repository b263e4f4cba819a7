"""Every error that flatprobe raises on purpose.

All survive pickling, because stages run in other processes; each carries the exit status of the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it stands, and what to do about it."""

    code: str
    """Which kind of mistake, as a stable dotted word: `panel.role_clash`. Messages may change, codes do not."""
    place: str
    """Where: `studies/mine.yaml:31`, a folder, an option; what a person can jump to."""
    message: str
    """What is wrong there."""
    remedy: str | None = None
    """What to do about it, when that is not already plain from the message."""

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.place}  {self.message}{remedy}"


class FlatprobeError(Exception):
    """Base of every error that is reported without a traceback."""

    exit_code: ClassVar[int] = 1


class UserError(FlatprobeError):
    """The user asked for something that cannot be done; holds all problems found, not only the first."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("a UserError needs at least one problem")
        super().__init__(self.problems)

    @classmethod
    def one(cls, code: str, place: str, message: str, remedy: str | None = None) -> Self:
        """The usual case of a single problem."""
        return cls(Problem(code, place, message, remedy))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class StageFailed(FlatprobeError):
    """A stage ended without an artifact; what earlier stages finished is kept."""

    def __init__(self, stage: str, cause: str, log: Path) -> None:
        self.stage = stage
        self.cause = cause
        self.log = log
        super().__init__(stage, cause, log)

    def __str__(self) -> str:
        return f"stage {self.stage} failed: {self.cause}\nlog: {self.log}"


class Interrupted(FlatprobeError):
    """The run was stopped from the keyboard, `stage` being under way (None between two stages)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, stage: str | None = None) -> None:
        self.stage = stage
        super().__init__(stage)

    def __str__(self) -> str:
        where = f" in stage {self.stage}" if self.stage else ""
        return f"interrupted{where}: nothing finished is lost; run the same command again to go on"
