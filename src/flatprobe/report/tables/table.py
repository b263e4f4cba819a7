"""A table of the report: rows of a frame with their numbers written as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flatprobe.report import numbers
from flatprobe.report.glossary import meaning
from flatprobe.report.origins import ORIGINS

Align = Literal["text", "number", "long"]
Row = Mapping[str, Any]
"""A row of a frame: the value by column."""
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

    def __init__(
        self,
        head: str,
        key: str | Callable[[Row], Any],
        write: Write | None = None,
        align: Align | None = None,
    ) -> None:
        self.head = head
        self.align: Align = align or ("text" if write is None else "number")
        self._take = key if callable(key) else lambda row: row[key]
        self._write = write or numbers.plain

    def cell(self, row: Row) -> str:
        """Text of this column in a row."""
        return self._write(self._take(row))


def build(kind: str, caption: str, columns: Sequence[Column], rows: Iterable[Row], part: str = "") -> Table:
    """Write rows by columns. `kind` is a key of `ORIGINS`, `part` tells tables of one kind apart.

    Raises KeyError for a row without a column's key.
    """
    return Table(
        name=f"{kind}-{part}" if part else kind,
        origin=ORIGINS[kind],
        caption=caption,
        heads=tuple((column.head, column.align) for column in columns),
        rows=tuple(tuple(column.cell(row) for column in columns) for row in rows),
    )


def seed(row: Row) -> str:
    """The seed of an estimate of one seed alone; estimates over all seeds have none."""
    return "all" if row["seed"] is None else str(row["seed"])


def layer_name(row: Row) -> str:
    """The decoder block; rows without one are means over layers."""
    return "mean over layers" if row["layer"] is None else str(row["layer"])


def scope(row: Row) -> str:
    """The population that an estimate generalises to and, below it, its note: the reason for a missing number."""
    return row["scope"] if row["note"] is None else f"{row['scope']}\nNote: {row['note']}"
