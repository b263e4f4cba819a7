"""Numbers as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatprobe.report import numbers


def test_leakage_is_in_signed_percentage_points_with_one_decimal() -> None:
    assert numbers.points(0.30214) == "+30.2 pp"
    assert numbers.points(-0.05) == "−5.0 pp"
    assert numbers.interval(0.243, 0.361, numbers.points) == "[+24.3, +36.1] pp"


def test_unknown_numbers_are_a_dash_and_never_a_zero() -> None:
    writers = (
        numbers.decimal,
        numbers.signed,
        numbers.percent,
        numbers.points,
        numbers.p_value,
        numbers.plain,
        numbers.duration,
        numbers.plain_points,
    )
    assert {write(None) for write in writers} == {"–"}
    assert numbers.interval(None, 0.3) == "–"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused(value: float) -> None:
    for write in (numbers.decimal, numbers.percent, numbers.points, numbers.p_value, numbers.plain, numbers.duration):
        with pytest.raises(ValueError, match="not a"):
            write(value)


@given(st.floats(min_value=0.0, max_value=1.0))
def test_a_p_value_is_never_printed_as_zero_and_keeps_two_digits(p: float) -> None:
    text = numbers.p_value(p)
    if p < 1e-4:
        assert text == "< 0.0001"
    else:
        assert float(text) == pytest.approx(p, rel=0.051)


def test_a_rounded_zero_has_no_sign() -> None:
    assert numbers.signed(-0.00001) == "0.0000"
    assert numbers.decimal(-0.0001, 3) == "0.000"
