"""Expect a UserError by codes and places, so that its words stay free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flatprobe.errors import UserError


@contextmanager
def refused(*expected: str | tuple[str, str], value: str = "") -> Iterator[None]:
    """The block raises a UserError with exactly these problems: a code each, or a code and a place.

    `value` is a name or number that its text must contain.
    """
    with pytest.raises(UserError) as error:
        yield
    problems = error.value.problems
    places = [one if isinstance(one, str) else one[1] for one in expected]
    assert [problem.code for problem in problems] == [one if isinstance(one, str) else one[0] for one in expected]
    assert [problem.place for problem in problems] == [
        problem.place if isinstance(one, str) else place
        for problem, one, place in zip(problems, expected, places, strict=True)
    ]
    assert value in str(error.value)
