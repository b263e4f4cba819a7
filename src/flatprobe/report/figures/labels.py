"""Places names beside points so that they do not overlap; Vega-Lite has no such function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

CHARACTER, LINE = 0.56, 1.15
"""Width of a character and height of a line of a sans serif font, in font sizes; rounded up."""
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_STEPS = (1.0, 1.8, 2.8, 4.0)
"""Distances from the point to try, in gaps."""


class Spot(NamedTuple):
    """Middle of a label, in pixels from the left and the top."""

    x: float
    y: float


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        """Area of the intersection."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def place_labels(
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    others: Sequence[tuple[float, float]],
    *,
    size: tuple[float, float],
    font: float,
    gap: float = 9.0,
) -> list[Spot]:
    """A spot for every name near its point, one name after the other: the nearest spot with the least overlap.

    `points`, `others` (further marks to avoid) and `size` (of the view) are in pixels; `font` is the font's size.
    Directions away from the view's middle come first.
    """
    view = _Box(0.0, 0.0, *size)
    marks = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in (*points, *others)]
    placed: list[_Box] = []
    spots = []
    for name, (x, y) in zip(names, points, strict=True):
        width, height = CHARACTER * font * len(name), LINE * font
        outward = (x - size[0] / 2, y - size[1] / 2)
        order = sorted(_DIRECTIONS, key=lambda d: -(d[0] * outward[0] + d[1] * outward[1]))
        best: tuple[float, _Box] | None = None
        for step in _STEPS:
            for across, down in order:
                middle_x = x + across * (gap * step + width / 2)
                middle_y = y + down * (gap * step * 0.6 + height / 2)
                box = _box(middle_x, middle_y, width, height)
                outside = width * height - box.overlap(view)
                cost = 4 * outside + sum(2 * box.overlap(one) for one in placed)
                cost += sum(box.overlap(mark) for mark in marks)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, box)
            if best is not None and best[0] <= 0:
                break
        assert best is not None, "there are directions and steps to try"
        placed.append(best[1])
        spots.append(Spot((best[1].left + best[1].right) / 2, (best[1].top + best[1].bottom) / 2))
    return spots


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return _Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
