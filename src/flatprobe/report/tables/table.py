"""What a table of the report is: rows of a frame, their numbers written; a cell is text and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flatprobe.report import numbers

Align = Literal["text", "number", "long"]
Write = Callable[[Any], str]


@dataclass(frozen=True)
class Table:
    """A caption, column heads with their alignment, and rows of text; the first cell of a row is its head."""

    name: str
    caption: str
    heads: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[str, ...], ...]


class Column:
    """How one column of a table is headed, taken from a row, and written."""

    def __init__(
        self,
        head: str,
        key: str | Callable[[Mapping[str, Any]], Any],
        write: Write | None = None,
        align: Align | None = None,
    ) -> None:
        self.head = head
        self.align: Align = align or ("text" if write is None else "number")
        self._take = key if callable(key) else lambda row: row[key]
        self._write = write or numbers.plain

    def cell(self, row: Mapping[str, Any]) -> str:
        """Text of this column in a row."""
        return self._write(self._take(row))


def build(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> Table:
    """Write rows by columns; a row without a column's key raises KeyError."""
    heads = tuple((column.head, column.align) for column in columns)
    return Table(name, caption, heads, tuple(tuple(column.cell(row) for column in columns) for row in rows))


def seed(row: Mapping[str, Any]) -> str:
    """The seed of an estimate of one seed alone; pooled ones have none."""
    return "all" if row["seed"] is None else str(row["seed"])


def scope(row: Mapping[str, Any]) -> str:
    """The population spoken for and, below it, what else a reader must know: the reason where a number is
    missing."""
    return row["scope"] if row["note"] is None else f"{row['scope']}\nNote: {row['note']}"
