"""How the report writes numbers: one format per kind of quantity, and an en dash for an unknown number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flatprobe import console

NONE = "–"
MINUS = "\u2212"
SMALLEST_P = 1e-4


def _finite(value: float) -> float:
    """The value itself. Unknown numbers are None in tables and estimates; NaN and infinity are errors."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number that can be shown; an unknown number must be null")
    return float(value)


def decimal(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Fixed-point number with a true minus sign; zero after rounding has no sign."""
    if value is None:
        return NONE
    rounded = round(_finite(value), digits)
    if rounded == 0:
        return f"{0:.{digits}f}"
    sign = MINUS if rounded < 0 else "+" if signed else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """Difference, always with its sign."""
    return decimal(value, digits, signed=True)


def percent(value: float | None) -> str:
    """Share in [0, 1] as a percentage with one decimal."""
    return NONE if value is None else f"{decimal(100 * value, 1)} %"


def points(value: float | None) -> str:
    """Difference of shares in signed percentage points with one decimal."""
    return NONE if value is None else f"{decimal(100 * value, 1, signed=True)} pp"


def plain_points(value: float | None) -> str:
    """Width of shares (a standard error) in unsigned percentage points."""
    return NONE if value is None else f"{decimal(100 * value, 1)} pp"


def p_value(value: float | None) -> str:
    """A p-value with two significant digits, never printed as 0."""
    if value is None:
        return NONE
    if not 0.0 <= _finite(value) <= 1.0:
        raise ValueError(f"{value} is not a p-value")
    if value < SMALLEST_P:
        return f"< {SMALLEST_P:.4f}"
    return f"{value:.{max(2, 1 - math.floor(math.log10(value)))}f}"


def interval(low: float | None, high: float | None, write: Callable[[float | None], str] = signed) -> str:
    """Confidence interval in brackets; a dash if an end is unknown."""
    if low is None or high is None:
        return NONE
    left, right = write(low), write(high)
    for unit in (" pp", " %"):
        if left.endswith(unit) and right.endswith(unit):
            return f"[{left.removesuffix(unit)}, {right.removesuffix(unit)}]{unit}"
    return f"[{left}, {right}]"


def spans(ascending: Sequence[int]) -> str:
    """Ascending whole numbers with runs joined: `0–6, 8, 10–12`."""
    runs: list[list[int]] = []
    for number in ascending:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    joined = [f"{run[0]}{NONE}{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(joined)


def duration(seconds: float | None) -> str:
    """Seconds as `59.2 s`, `12 min 05 s`, `3 h 07 min`."""
    return NONE if seconds is None else console.duration(_finite(seconds))


def plain(value: object) -> str:
    """Any value as text: booleans as words, whole numbers with separators, floats with four significant digits."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if isinstance(value, float):
        return f"{_finite(value):.4g}".replace("-", MINUS)
    return str(value)


def nats(value: float | None) -> str:
    """Log-probability in nats with two decimals."""
    return decimal(value, 2)


def signed_nats(value: float | None) -> str:
    """Difference of log-probabilities in nats."""
    return signed(value, 2)
