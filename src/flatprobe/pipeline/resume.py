"""Resume folder of a stage: survives a killed process, deleted when the stage is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OWNER = "key.txt"


@dataclass(frozen=True)
class ResumeFolder:
    """The scratch folder of the stage with this key. It is created when the stage first asks for it."""

    path: Path
    key: str
    stage: str = ""
    """The stage's name, for people."""


_current: ResumeFolder | None = None


@contextmanager
def use_resume_folder(current: ResumeFolder) -> Iterator[None]:
    """Let the stage function that runs in this process use this resume folder."""
    global _current
    previous, _current = _current, current
    try:
        yield
    finally:
        _current = previous


def stage_name() -> str | None:
    """Name of the running stage; None outside a worker."""
    return _current.stage if _current is not None else None


def folder() -> Path | None:
    """The resume folder of the running stage, created if needed; None outside a worker, for example in tests.

    It holds only files of the same computation. The folder's name has the first digits of the key; the file `key.txt`
    has the whole key, and the files of another key are removed.
    """
    if _current is None:
        return None
    owner = _current.path / OWNER
    if not owner.is_file() or owner.read_text(encoding="utf-8") != _current.key:
        shutil.rmtree(_current.path, ignore_errors=True)
        _current.path.mkdir(parents=True)
        owner.write_text(_current.key, encoding="utf-8")
    return _current.path
