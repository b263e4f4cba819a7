"""Heavy things that a worker keeps from one stage to the next: a loaded checkpoint, an engine. One of each kind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Held:
    key: Hashable
    thing: Any
    close: Callable[[], None]


_held: dict[str, _Held] = {}


def hold(
    kind: str, key: Hashable, make: Callable[[], T], close: Callable[[T], None] = lambda thing: None
) -> T:
    """The thing of this kind that is held under `key`; else a new one, made when the old one has been given up.

    Args:
        key: equal for things that can stand in for each other, whatever stage asks.
        close: gives back what the thing holds beyond Python's own memory.
    """
    found = _held.get(kind)
    if found is None or found.key != key:
        release(kind)
        thing = make()
        _held[kind] = found = _Held(key, thing, lambda: close(thing))
    result: T = found.thing
    return result


def release(*kinds: str) -> None:
    """Give up what is held of these kinds, or all: before a stage that needs the memory, or may have spoilt it."""
    for kind in kinds or list(_held):
        if kind in _held:
            _held.pop(kind).close()
    gc.collect()
