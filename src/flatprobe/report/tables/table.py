"""A table of the report: rows of a frame, or objects, with their numbers written as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flatprobe.report import numbers
from flatprobe.report.glossary import meaning
from flatprobe.report.origins import ORIGINS
from flatprobe.statistics.estimate import Estimate

Align = Literal["text", "number", "long"]
Row = Mapping[str, Any]
"""A row of a frame: the value by column."""
Take = str | Callable[[Any], Any]
"""What a column takes from a row: a key of a mapping, an attribute of an object, or a function's result."""
Write = Callable[[Any], str]


@dataclass(frozen=True)
class Table:
    """A caption, column heads with their alignment, and rows of text; the first cell of a row is its head."""

    name: str
    """Identifier, unique in the page."""
    origin: str
    """Import string of the function that computes the numbers, below `flatprobe`."""
    caption: str
    heads: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def meanings(self) -> tuple[str | None, ...]:
        """The glossary's text for each head; None for words of the method."""
        return tuple(meaning(head) for head, _ in self.heads)


class Column:
    """How one column of a table is headed, taken from a row, and written."""

    def __init__(self, head: str, take: Take, write: Write | None = None, align: Align | None = None) -> None:
        self.head = head
        self.align: Align = align or ("text" if write is None else "number")
        self._take = take
        self._write = write or numbers.plain

    def cell(self, row: Any) -> str:
        """Text of this column in a row."""
        if callable(self._take):
            return self._write(self._take(row))
        return self._write(row[self._take] if isinstance(row, Mapping) else getattr(row, self._take))


def build(kind: str, caption: str, columns: Sequence[Column], rows: Iterable[Any], part: str = "") -> Table:
    """Write rows by columns. `kind` is a key of `ORIGINS`, `part` tells tables of one kind apart.

    Raises KeyError or AttributeError for a row without a column's value.
    """
    return Table(
        name=f"{kind}-{part}" if part else kind,
        origin=ORIGINS[kind],
        caption=caption,
        heads=tuple((column.head, column.align) for column in columns),
        rows=tuple(tuple(column.cell(row) for column in columns) for row in rows),
    )


def seed_name(seed: int | None) -> str:
    """The seed of an estimate of one seed alone; estimates over all seeds have none."""
    return "all" if seed is None else str(seed)


def layer_name(layer: int | None) -> str:
    """The decoder block; None is the mean over layers."""
    return "mean over layers" if layer is None else str(layer)


def scope_text(scope: str, note: str | None) -> str:
    """The population that an estimate generalises to and, below it, its note: the reason for a missing number."""
    return scope if note is None else f"{scope}\nNote: {note}"


def scope_column() -> Column:
    """What the estimate of a row generalises to."""

    def text(estimate: Estimate) -> str:
        return scope_text(estimate.scope, estimate.note)

    return Column("generalises to", text, align="long")
