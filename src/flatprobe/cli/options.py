"""What commands share in their options: lists, filters, and files to write, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flatprobe import console
from flatprobe.counts.cell_files import Where
from flatprobe.errors import Problem

if TYPE_CHECKING:
    import polars as pl

TABLES = (".csv", ".parquet")
"""Suffixes of tables that are written."""
STANDARD_OUTPUT = Path("-")
JSON = Path | None
"""Value of `--json`: None writes nothing, `-` prints it instead of text."""


def names(lists: Sequence[str]) -> tuple[str, ...]:
    """`a, b` and `c` as a, b, c. An option for a list may be given several times."""
    parts = (name.strip() for text in lists for name in text.split(","))
    return tuple(name for name in parts if name)


def read_filters(where: Sequence[str]) -> tuple[list[Where], list[Problem]]:
    """Filters of `--where`, each `column=value`."""
    filters, problems = [], []
    for text in where:
        column, equals, value = (part.strip() for part in text.partition("="))
        if column and equals:
            filters.append(Where(column, value))
        else:
            message = f"`{text}` is no filter"
            problems.append(Problem("options.where", "--where", message, "write it as --where lambda=1"))
    return filters, problems


def check_problems(checks: Iterable[tuple[bool, str, str, str]]) -> list[Problem]:
    """A problem for every check that failed; a check is (passed, option, message, remedy)."""
    return [
        Problem(f"options.{option.lstrip('-').replace('-', '_')}", option, message, remedy)
        for passed, option, message, remedy in checks
        if not passed
    ]


def output_problems(option: str, path: Path, inputs: Sequence[Path], suffixes: Sequence[str] = ()) -> list[Problem]:
    """Why a file cannot be written. `inputs` are never overwritten; with `suffixes`, it must have one of them."""

    def problem(kind: str, message: str, remedy: str | None = None) -> list[Problem]:
        return [Problem(f"output.{kind}", option, message, remedy)]

    if suffixes and path.suffix.lower() not in suffixes:
        return problem("suffix", f"{path} is not {' or '.join(suffixes)}", "the suffix chooses the format")
    if path.is_dir():
        return problem("is_folder", f"{path} is a folder", "name a file")
    if not path.parent.is_dir():
        return problem("no_folder", f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
    if any(path.resolve() == source.resolve() for source in inputs):
        return problem("overwrites", f"{path} is read or written by this command", "name another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return problem("not_writable", f"{path} cannot be written")
    return []


def json_problems(path: JSON, inputs: Sequence[Path | None]) -> list[Problem]:
    """Why the file of `--json` cannot be written."""
    if path is None or path == STANDARD_OUTPUT:
        return []
    return output_problems("--json", path, [source for source in inputs if source is not None])


def put_out(document: str, path: JSON) -> bool:
    """Write a JSON document to the file of `--json`, or print it for `-`; returns whether it was printed."""
    if path == STANDARD_OUTPUT:
        console.say(document)
        return True
    if path is not None:
        path.write_text(document + "\n", encoding="utf-8")
    return False


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, by the suffix."""
    if path.suffix.lower() == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path)
