"""What a stage leaves for its own next attempt: a folder that outlives a kill, and goes when the stage is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OWNER = "key.txt"


@dataclass(frozen=True)
class Place:
    """Where the stage with this key may keep something, should it want to."""

    path: Path
    key: str
    stage: str = ""
    """The stage's name, for people."""


_place: Place | None = None


@contextmanager
def lasting(place: Place) -> Iterator[None]:
    """Give the stage functions that run in this process a folder to resume from."""
    global _place
    before, _place = _place, place
    try:
        yield
    finally:
        _place = before


def stage_name() -> str | None:
    """Name of the stage under way; None outside a worker."""
    return _place.stage if _place is not None else None


def folder() -> Path | None:
    """The folder of the stage under way, made now if it is not there; None outside a worker, as in tests.

    It holds what an earlier attempt at the very same computation left. What belongs to another is removed: folders are
    found by the first digits of a key, and only all of them say whose they are.
    """
    if _place is None:
        return None
    owner = _place.path / OWNER
    if not owner.is_file() or owner.read_text(encoding="utf-8") != _place.key:
        shutil.rmtree(_place.path, ignore_errors=True)
        _place.path.mkdir(parents=True)
        owner.write_text(_place.key, encoding="utf-8")
    return _place.path
