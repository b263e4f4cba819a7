"""Tables that people bring, read as text with the line of every row, so that a problem can say where it stands.

Nothing is guessed: `01` stays `01`, and what is a number is decided where it is needed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatprobe.errors import Problem

LINE = "flatprobe:line"
"""Column of the row's place: the 1-based line of a text file, the 1-based row of a Parquet file."""
SHOWN = 20
"""Problems of one kind that are listed one by one; a broken export has them on every line."""


@dataclass(frozen=True)
class TextTable:
    """A table whose columns are all text, trimmed, empty ones null; and `LINE`."""

    path: Path
    frame: pl.DataFrame

    @property
    def columns(self) -> list[str]:
        """The columns' names, without `LINE`."""
        return [column for column in self.frame.columns if column != LINE]

    def place(self, line: int) -> str:
        """Where a row stands: `cells.csv:17`, or `cells.parquet row 17`."""
        return place(self.path, line)


def place(path: Path, line: int) -> str:
    """Where a row stands: a line of a text file, a row of a Parquet file."""
    return f"{path} row {line}" if is_parquet(path) else f"{path}:{line}"


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its suffix."""
    return path.suffix.lower() == ".parquet"


def first_ones(path: Path, problems: Sequence[Problem]) -> list[Problem]:
    """At most `SHOWN` of the problems of one kind, and how many more there are."""
    left = len(problems) - SHOWN
    if left <= 0:
        return list(problems)
    return [
        *problems[:SHOWN],
        Problem("text_table.TODO", str(path), f"and {left:,} more problems like these"),
    ]


def file_problem(path: Path, suffixes: Sequence[str]) -> Problem | None:
    """Why a file cannot be read at all: another suffix, not there, a folder; None where it can be tried."""
    if path.suffix.lower() not in suffixes:
        return Problem(
            "text_table.TODO",
            str(path),
            f"is not {' or '.join(suffixes)}",
            "the suffix says how a file is read",
        )
    if not path.exists():
        return Problem("text_table.TODO", str(path), "there is no such file")
    if not path.is_file():
        return Problem("text_table.TODO", str(path), "is a folder, not a file")
    return None


def read_text_table(path: Path) -> tuple[TextTable | None, list[Problem]]:
    """Read a CSV (UTF-8, comma-separated, one header line) or Parquet file.

    Returns the table, without the rows that could not be read, and everything that is wrong with the file as a
    file; the table is None where there is nothing to go on with.
    """
    if problem := file_problem(path, (".csv", ".parquet")):
        return None, [problem]
    try:
        return _read_parquet(path) if is_parquet(path) else _read_csv(path)
    except OSError as error:
        return None, [Problem("text_table.TODO", str(path), f"cannot be read: {error.strerror or error}")]


def _read_parquet(path: Path) -> tuple[TextTable | None, list[Problem]]:
    try:
        stored = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        return None, [Problem("text_table.TODO", str(path), f"is not a Parquet file: {first_line(error)}")]
    flat = [name for name, dtype in stored.schema.items() if not dtype.is_nested() and dtype != pl.Binary]
    return _finish(path, stored.select(pl.col(flat).cast(pl.String)), list(range(1, stored.height + 1)))


def _read_csv(path: Path) -> tuple[TextTable | None, list[Problem]]:
    header: list[str] | None = None
    rows: list[list[str]] = []
    lines: list[int] = []
    problems: list[Problem] = []
    end = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for fields in reader:
                line, end = end + 1, reader.line_num
                if not fields:  # an empty line
                    continue
                if header is None:
                    header = fields
                elif len(fields) != len(header):
                    message = f"{len(fields)} fields under {len(header)} columns"
                    problems.append(Problem("text_table.TODO", place(path, line), message))
                else:
                    rows.append(fields)
                    lines.append(line)
    except UnicodeDecodeError:
        return None, [Problem("text_table.TODO", str(path), "is not UTF-8 text", "export it as CSV in UTF-8")]
    except csv.Error as error:
        return None, [Problem("text_table.TODO", place(path, end + 1), f"is not CSV: {error}")]
    problems = first_ones(path, problems)
    if header is None:
        return None, [
            Problem("text_table.TODO", str(path), "is empty", "give a header line and a row per cell")
        ]
    names = [name.strip() for name in header]
    if problem := _header_problem(path, names):
        return None, [*problems, problem]
    table, more = _finish(
        path, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row"), lines
    )
    return table, problems + more


def _header_problem(path: Path, names: Sequence[str]) -> Problem | None:
    if len(names) == 1:
        for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in names[0]:
                return Problem(
                    "text_table.TODO",
                    place(path, 1),
                    f"columns are separated by {word}",
                    "separate them by commas",
                )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        listed = ", ".join(f"`{name}`" for name in twice)
        return Problem("text_table.TODO", place(path, 1), f"the header names {listed} more than once")
    return None


def _finish(path: Path, frame: pl.DataFrame, lines: Sequence[int]) -> tuple[TextTable | None, list[Problem]]:
    if frame.is_empty():
        return None, [Problem("text_table.TODO", str(path), "holds no row", "give a row per cell")]
    text = pl.col(pl.String).str.strip_chars()
    trimmed = frame.select(pl.when(text != "").then(text))
    return TextTable(path, trimmed.with_columns(pl.Series(LINE, lines, dtype=pl.Int64))), []


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return str(error).strip().partition("\n")[0]
