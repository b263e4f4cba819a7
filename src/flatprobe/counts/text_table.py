"""CSV and Parquet tables read as text, with the line of every row, so that a problem can name its line.

Types are not guessed: `01` stays `01`. The reader of a column converts it.
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
"""Column with the 1-based line of a text file, or the 1-based row of a Parquet file."""
SHOWN = 20
"""Problems of one kind that are listed; a broken export has one on every line."""


@dataclass(frozen=True)
class TextTable:
    """A table of trimmed text columns, with null for empty fields, and `LINE`."""

    path: Path
    frame: pl.DataFrame

    @property
    def columns(self) -> list[str]:
        """The columns' names, without `LINE`."""
        return [column for column in self.frame.columns if column != LINE]

    def place(self, line: int) -> str:
        """The place of a row: `cells.csv:17`, or `cells.parquet row 17`."""
        return place(self.path, line)


def place(path: Path, line: int) -> str:
    """The place of a row: a line of a text file, a row of a Parquet file."""
    return f"{path} row {line}" if is_parquet(path) else f"{path}:{line}"


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its suffix."""
    return path.suffix.lower() == ".parquet"


def first_ones(path: Path, problems: Sequence[Problem]) -> list[Problem]:
    """The first `SHOWN` problems of one kind, and the number of further ones."""
    left = len(problems) - SHOWN
    if left <= 0:
        return list(problems)
    return [*problems[:SHOWN], Problem("problems.more", str(path), f"and {left:,} more problems like these")]


def file_problem(path: Path, suffixes: Sequence[str]) -> Problem | None:
    """Why a file cannot be opened: wrong suffix, missing, a folder; None if it can."""
    if path.suffix.lower() not in suffixes:
        return Problem("file.suffix", str(path), f"is not {' or '.join(suffixes)}", "the suffix chooses the reader")
    if not path.exists():
        return Problem("file.missing", str(path), "no such file")
    if not path.is_file():
        return Problem("file.is_folder", str(path), "is a folder, not a file")
    return None


def read_text_table(path: Path) -> tuple[TextTable | None, list[Problem]]:
    """Read a CSV (UTF-8, comma-separated, one header line) or Parquet file.

    Returns the table without its unreadable rows (None if nothing can be read), and every problem of the file.
    """
    if problem := file_problem(path, (".csv", ".parquet")):
        return None, [problem]
    try:
        return _read_parquet(path) if is_parquet(path) else _read_csv(path)
    except OSError as error:
        return None, [Problem("file.unreadable", str(path), f"cannot be read: {error.strerror or error}")]


def _read_parquet(path: Path) -> tuple[TextTable | None, list[Problem]]:
    try:
        stored = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        return None, [Problem("file.not_parquet", str(path), f"is not a Parquet file: {first_line(error)}")]
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
                    problems.append(Problem("table.fields", place(path, line), message))
                else:
                    rows.append(fields)
                    lines.append(line)
    except UnicodeDecodeError:
        return None, [Problem("file.encoding", str(path), "is not UTF-8 text", "export it as CSV in UTF-8")]
    except csv.Error as error:
        return None, [Problem("file.not_csv", place(path, end + 1), f"is not CSV: {error}")]
    problems = first_ones(path, problems)
    if header is None:
        return None, [Problem("file.empty", str(path), "is empty", "give a header line and a row per cell")]
    names = [name.strip() for name in header]
    if problem := _header_problem(path, names):
        return None, [*problems, problem]
    table, more = _finish(path, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row"), lines)
    return table, problems + more


def _header_problem(path: Path, names: Sequence[str]) -> Problem | None:
    if len(names) == 1:
        for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in names[0]:
                return Problem(
                    "table.separator", place(path, 1), f"columns are separated by {word}", "separate them by commas"
                )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        listed = ", ".join(f"`{name}`" for name in twice)
        return Problem("table.duplicate_column", place(path, 1), f"the header names {listed} more than once")
    return None


def _finish(path: Path, frame: pl.DataFrame, lines: Sequence[int]) -> tuple[TextTable | None, list[Problem]]:
    if frame.is_empty():
        return None, [Problem("file.empty", str(path), "contains no row", "give a row per cell")]
    text = pl.col(pl.String).str.strip_chars()
    trimmed = frame.select(pl.when(text != "").then(text))
    return TextTable(path, trimmed.with_columns(pl.Series(LINE, lines, dtype=pl.Int64))), []


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return str(error).strip().partition("\n")[0]
