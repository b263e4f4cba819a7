"""Formats that the console, the displays and the report share."""

from __future__ import annotations

import pytest

from flatprobe.console import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (61.2, "1 min 01 s"),
        (725, "12 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11220, "3 h 07 min"),
    ],
)
def test_a_duration_is_in_seconds_then_minutes_then_hours(seconds: float, text: str) -> None:
    assert duration(seconds) == text
