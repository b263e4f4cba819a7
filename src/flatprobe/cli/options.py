"""Files that a command is asked to write: checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flatprobe.errors import Problem

if TYPE_CHECKING:
    import polars as pl

TABLES = (".csv", ".parquet")
"""Suffixes of tables that are written."""


def output_problems(
    option: str, path: Path, inputs: Sequence[Path], suffixes: Sequence[str] = ()
) -> list[Problem]:
    """Why a file cannot be written; `inputs` are never overwritten; with `suffixes`, it must have one of them."""
    if suffixes and path.suffix.lower() not in suffixes:
        return [
            Problem(
                "options.TODO",
                option,
                f"{path} is not {' or '.join(suffixes)}",
                "the suffix chooses the format",
            )
        ]
    if path.is_dir():
        return [Problem("options.TODO", option, f"{path} is a folder", "name a file")]
    if not path.parent.is_dir():
        return [
            Problem("options.TODO", option, f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
        ]
    if any(path.resolve() == source.resolve() for source in inputs):
        return [
            Problem(
                "options.TODO",
                option,
                f"{path} is read or written by this command already",
                "name another file",
            )
        ]
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return [Problem("options.TODO", option, f"{path} may not be written")]
    return []


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, by the suffix."""
    if path.suffix.lower() == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path)
