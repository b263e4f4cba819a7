"""Files of counts, filtered and checked row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatprobe.config.suggest import did_you_mean
from flatprobe.counts.text_table import LINE, TextTable, first_ones, read_text_table
from flatprobe.errors import Problem, UserError

KEYS = ("condition", "persona", "question_id")
_WHOLE = r"^\+?[0-9]{1,15}(\.0*)?$"  # whole numbers, also as floats write them: 3.0


@dataclass(frozen=True)
class Where:
    """Keep the rows whose `column` is `value`: equal as text without case, or as numbers; "" is an empty field."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"--where {self.column}={self.value}"

    def holds(self) -> pl.Expr:
        """The filter on a table of text."""
        text = pl.col(self.column)
        if not self.value:
            return text.is_null()
        same: pl.Expr = text.str.to_lowercase() == self.value.lower()
        if (number := _number(self.value)) is not None:
            same = same | (text.cast(pl.Float64, strict=False) == number)
        return same.fill_null(False)


@dataclass(frozen=True)
class CellFile:
    """The rows of a file that pass the filters."""

    table: TextTable
    cells: pl.DataFrame
    """condition, persona, question_id (text), hits, total (Int64), `LINE`, and the further columns as text."""

    @property
    def conditions(self) -> list[str]:
        """Names in the file's order."""
        return self.cells["condition"].unique(maintain_order=True).to_list()

    @property
    def personas(self) -> list[str]:
        """Names in the file's order."""
        return self.cells["persona"].unique(maintain_order=True).to_list()


def read_cells(path: str | Path) -> pl.DataFrame:
    """Read and check a CSV or Parquet file of counts, one row per cell.

    Returns:
        condition, persona, question_id (text), hits, total (whole numbers), and the further columns as text.

    Raises:
        UserError: everything that is wrong with the file, with its lines.

    Example:
        >>> import flatprobe
        >>> flatprobe.read_cells("examples/leakage_cells.csv").columns
        ['condition', 'persona', 'question_id', 'hits', 'total']
    """
    file, problems = read_cell_file(Path(path))
    if problems or file is None:
        raise UserError(problems or Problem("file.empty", str(path), "contains no row", "give a row per cell"))
    return file.cells.drop(LINE)


def read_cell_file(
    path: Path, where: Sequence[Where] = (), hits: str = "hits"
) -> tuple[CellFile | None, list[Problem]]:
    """Read a CSV or Parquet file with columns condition, persona, question_id, total and the column `hits`.

    Returns the correct rows that the filters keep (None if there are none), and every problem of the other rows. Do not
    compute on a file with problems.
    """
    table, problems = read_text_table(path)
    if table is None:
        return None, problems
    absent = [column for column in (*KEYS, hits, "total") if column not in table.columns]
    problems += [_absent_column(table, column) for column in absent]
    filtered, more = _filter(table, where)
    problems += more
    if absent or filtered is None:
        return None, problems
    counted, more = _count(table, filtered, hits)
    problems += more
    return (None if counted.is_empty() else CellFile(table, counted)), problems


def _absent_column(table: TextTable, column: str) -> Problem:
    remedy = did_you_mean(column, table.columns)
    return Problem("cells.missing_column", str(table.path), f"there is no column `{column}`", remedy)


def _filter(table: TextTable, where: Sequence[Where]) -> tuple[pl.DataFrame | None, list[Problem]]:
    frame, problems = table.frame, []
    for condition in where:
        if condition.column not in table.columns:
            remedy = did_you_mean(condition.column, table.columns)
            problems.append(
                Problem(
                    "options.where_column", str(condition), f"{table.path} has no column `{condition.column}`", remedy
                )
            )
            continue
        selected = frame.filter(condition.holds())
        if selected.is_empty():
            values = frame[condition.column].unique(maintain_order=True).drop_nulls().to_list()
            listed = ", ".join(values[:12]) + (", …" if len(values) > 12 else "")
            message = f"selects no row of {table.path}"
            problems.append(
                Problem("options.where_empty", str(condition), message, f"its values are {listed}" if values else None)
            )
            continue
        frame = selected
    return (None if problems else frame), problems


def _count(table: TextTable, frame: pl.DataFrame, hits: str) -> tuple[pl.DataFrame, list[Problem]]:
    """The correct rows with counts as numbers, and a problem for each other row."""
    wrong: list[tuple[int, str]] = []
    for key in KEYS:
        empty = frame.filter(pl.col(key).is_null())
        wrong += [(line, f"{key} is empty") for line in empty[LINE]]
    columns = {hits: "hits", "total": "total"}
    for column in columns:
        malformed = frame.filter(~pl.col(column).str.contains(_WHOLE).fill_null(False))
        wrong += [
            (line, f"{column} is {'empty' if value is None else value}: not a whole number of completions")
            for line, value in malformed.select(LINE, column).iter_rows()
        ]
    bad = {line for line, _ in wrong}
    numbers = {
        name: pl.col(column).str.strip_prefix("+").str.replace(r"\..*$", "").cast(pl.Int64)
        for column, name in columns.items()
    }
    counted = frame.filter(~pl.col(LINE).is_in(list(bad))).with_columns(**numbers)
    right = (pl.col("total") > 0) & (pl.col("hits") <= pl.col("total"))
    for line, hit, total in counted.filter(~right).select(LINE, "hits", "total").iter_rows():
        wrong.append((line, f"{hit} hits of {total} completions is impossible" if total else "total is 0: no rate"))
    problems = [Problem("cells.count", table.place(line), message) for line, message in sorted(wrong)]
    return counted.filter(right), first_ones(table.path, problems)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
