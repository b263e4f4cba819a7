"""Errors that flatprobe raises on purpose.

All can be pickled, because stages run in other processes. Each has the exit status of the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self


@dataclass(frozen=True)
class Problem:
    """One mistake: its kind, its place, and how to correct it."""

    code: str
    """The kind of mistake as a stable dotted word, `panel.role_clash`. Messages may change, codes do not."""
    place: str
    """Where the user can find it: `studies/mine.yaml:31`, a folder, an option."""
    message: str
    """What is wrong."""
    remedy: str | None = None
    """How to correct it, if the message alone does not say so."""

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.place}  {self.message}{remedy}"


class FlatprobeError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code: ClassVar[int] = 1


class UserError(FlatprobeError):
    """The user's request cannot be carried out. Holds all problems, not only the first."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("a UserError needs at least one problem")
        super().__init__(self.problems)

    @classmethod
    def one(cls, code: str, place: str, message: str, remedy: str | None = None) -> Self:
        """An error with a single problem."""
        return cls(Problem(code, place, message, remedy))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class StageFailed(FlatprobeError):
    """A stage ended without an artifact. Artifacts of earlier stages remain."""

    def __init__(self, stage: str, cause: str, log: Path) -> None:
        self.stage = stage
        self.cause = cause
        self.log = log
        super().__init__(stage, cause, log)

    def __str__(self) -> str:
        return f"stage {self.stage} failed: {self.cause}\nlog: {self.log}"


class Interrupted(FlatprobeError):
    """The user stopped the run during `stage` (None: between two stages)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, stage: str | None = None) -> None:
        self.stage = stage
        super().__init__(stage)

    def __str__(self) -> str:
        where = f" in stage {self.stage}" if self.stage else ""
        return f"interrupted{where}: finished stages are kept; run the same command again to continue"
