from __future__ import annotations

from collections.abc import Iterator

import pytest

from flatprobe.worker_cache import hold, release


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    release()
    yield
    release()


def test_an_object_is_made_once_per_key_and_one_per_kind_is_cached() -> None:
    made, closed = [], []

    def get(kind: str, key: str) -> str:
        return hold(kind, key, lambda: made.append(key) or key, close=closed.append)  # type: ignore[func-returns-value]

    assert [get("engine", key) for key in ("a", "a", "b", "a")] == ["a", "a", "b", "a"]
    assert made == ["a", "b", "a"] and closed == ["a", "b"]
    get("checkpoint", "c")
    assert closed == ["a", "b"]


def test_the_old_object_is_released_before_the_new_one_is_made() -> None:
    order: list[str] = []
    hold("engine", 1, lambda: order.append("make 1"), close=lambda thing: order.append("close 1"))
    hold("engine", 2, lambda: order.append("make 2"))
    assert order == ["make 1", "close 1", "make 2"]


def test_kinds_are_released_by_name_or_all_together() -> None:
    closed: list[str] = []
    for kind in ("engine", "checkpoint"):
        hold(kind, 0, lambda kind=kind: kind, close=closed.append)  # type: ignore[misc]
    release("engine", "engine", "unknown")
    assert closed == ["engine"]
    release()
    assert closed == ["engine", "checkpoint"]


def test_an_object_that_could_not_be_made_is_not_cached() -> None:
    def fail() -> str:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        hold("engine", 0, fail)
    assert hold("engine", 0, lambda: "there") == "there"
