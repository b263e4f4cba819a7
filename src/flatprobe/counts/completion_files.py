"""Files of completions (JSONL or Parquet), read in blocks with the line of every row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import polars as pl

from flatprobe.counts.text_table import LINE, SHOWN, file_problem, first_line, is_parquet, place
from flatprobe.errors import Problem

KEYS = ("condition", "persona", "question_id")
FURTHER_KEYS = ("lambda", "seed", "coupled")
"""Optional keys; null where a file lacks them."""
SCHEMA = {
    **dict.fromkeys(KEYS, pl.String), "lambda": pl.Float64, "seed": pl.Int64, "coupled": pl.Boolean,
    "sample_index": pl.Int64, "text": pl.String, LINE: pl.Int64,
}  # fmt: skip
"""Columns of a block."""
BLOCK = 20_000
"""Completions per block, about 20 MB of text."""
_LARGEST = 2**63
_NAMES = (*KEYS, "sample_index", "text")


def read_blocks(path: Path, problems: list[Problem]) -> Iterator[pl.DataFrame]:
    """Yield the correct rows in blocks with the columns of `SCHEMA`; append what is wrong to `problems`.

    The first `SHOWN` wrong rows are described, the others counted. An empty text is a completion; a null text is not.
    """
    if problem := file_problem(path, (".jsonl", ".parquet")):
        problems.append(problem)
        return
    rows = _parquet_rows(path) if is_parquet(path) else _json_rows(path)
    block: list[tuple[Any, ...]] = []
    wrong = 0
    try:
        for line, row in rows:
            reason = row if isinstance(row, str) else _why_wrong(row)
            if reason is None:
                assert not isinstance(row, str)
                block.append((*(_value(row, name) for name in SCHEMA if name != LINE), line))
                if len(block) == BLOCK:
                    yield pl.DataFrame(block, schema=SCHEMA, orient="row")
                    block = []
                continue
            wrong += 1
            if wrong <= SHOWN:
                problems.append(Problem("completions.row", place(path, line), reason))
    except UnicodeDecodeError:
        problems.append(Problem("file.encoding", str(path), "is not UTF-8 text"))
    except pl.exceptions.PolarsError as error:
        problems.append(Problem("file.not_parquet", str(path), f"is not a Parquet file: {first_line(error)}"))
    except OSError as error:
        problems.append(Problem("file.unreadable", str(path), f"cannot be read: {error.strerror or error}"))
    if wrong > SHOWN:
        problems.append(Problem("problems.more", str(path), f"and {wrong - SHOWN:,} more problems like these"))
    if block:
        yield pl.DataFrame(block, schema=SCHEMA, orient="row")


NumberedRow = tuple[int, Mapping[str, Any] | str]
"""A line number with its row, or the reason why the row cannot be read."""


def _json_rows(path: Path) -> Iterator[NumberedRow]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if text.isspace():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield line, f"is not JSON: {error}"
                continue
            if not isinstance(row, dict):
                yield line, "is not a JSON object"
            elif ("\\ud" in text or "\\uD" in text) and _has_lone_surrogate(row):
                yield line, "contains a lone surrogate (half a character)"
            else:
                yield line, row


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    stored = pl.scan_parquet(path, glob=False)
    names = [name for name in (*_NAMES, *FURTHER_KEYS) if name in stored.collect_schema()]
    start = 0
    while (block := stored.select(names).slice(start, BLOCK).collect()).height:
        yield from enumerate(block.iter_rows(named=True), start=start + 1)
        start += block.height


def _has_lone_surrogate(row: Mapping[str, Any]) -> bool:
    return any("\ud800" <= character <= "\udfff" for value in row.values() for character in str(value))


def _why_wrong(row: Mapping[str, Any]) -> str | None:
    """Everything that is wrong with a row; None if it is correct."""
    absent = [name for name in _NAMES if name not in row]
    if absent:
        return f"has no {', '.join(absent)}"
    problems = [f"{key} is {json.dumps(row[key], default=str)}: not a name" for key in KEYS if not _is_name(row[key])]
    if not _is_whole(row["sample_index"]) or row["sample_index"] < 0:
        problems.append(
            f"sample_index is {json.dumps(row['sample_index'], default=str)}: not a whole number of 0 or more"
        )
    if row["text"] is None:
        problems.append('text is null; write an empty completion as ""')
    elif not isinstance(row["text"], str):
        problems.append("text is not a string")
    problems += [problem for name in FURTHER_KEYS if (problem := _wrong_setting(name, row.get(name)))]
    return "; ".join(problems) or None


def _is_name(value: object) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, int) and _is_whole(value))


def _is_whole(value: object) -> TypeGuard[int | float]:
    """Whether a value is a whole number; 3.0 is, because a column with gaps stores 3 in that way."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST < value < _LARGEST:
        return False
    return value == int(value)


def _wrong_setting(name: str, value: object) -> str | None:
    if value is None:
        return None
    right = {
        "lambda": isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST,
        "seed": _is_whole(value),
        "coupled": isinstance(value, bool),
    }[name]
    kinds: Sequence[str] = ("a number", "a whole number", "true or false")
    return None if right else f"{name} is {json.dumps(value, default=str)}: not {kinds[FURTHER_KEYS.index(name)]}"


def _value(row: Mapping[str, Any], name: str) -> object:
    value = row.get(name)
    if name in KEYS:
        return str(value).strip()
    return int(value) if name in ("seed", "sample_index") and value is not None else value
