"""Cache of expensive objects (a loaded checkpoint, an engine) that a worker reuses between stages. One per kind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry:
    key: Hashable
    value: Any
    close: Callable[[], None]


_entries: dict[str, _Entry] = {}


def hold(kind: str, key: Hashable, make: Callable[[], T], close: Callable[[T], None] = lambda value: None) -> T:
    """The cached object of this kind if its key equals `key`. Otherwise release it first, then make a new one.

    Args:
        key: equal for objects that can replace each other.
        close: frees what the object holds outside Python's memory.
    """
    entry = _entries.get(kind)
    if entry is None or entry.key != key:
        release(kind)
        made = make()
        _entries[kind] = entry = _Entry(key, made, lambda: close(made))
    value: T = entry.value
    return value


def release(*kinds: str) -> None:
    """Release the objects of these kinds, or all: before a stage that needs the memory, or after one that failed."""
    for kind in kinds or list(_entries):
        if kind in _entries:
            _entries.pop(kind).close()
    gc.collect()
