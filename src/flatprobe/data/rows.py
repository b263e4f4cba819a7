"""Rows of finetune data as conversations, from a local JSONL file or a hub dataset, in file order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.study.schema import FinetuneData

Messages = list[dict[str, str]]


def read_rows(data: FinetuneData, path: Path | None) -> Iterator[Mapping[str, Any]]:
    """The raw rows in file order; `path` is the local file, or None for a hub dataset.

    Raises:
        UserError: a line is not a JSON object, or the hub dataset cannot be read.
    """
    if path is not None:
        yield from read_jsonl(path)
        return
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError.one(
            "packages.missing",
            f"dataset {data.dataset}",
            "hub datasets need the package `datasets`",
            "pip install 'flatprobe[hub]'",
        ) from error
    try:
        yield from load_dataset(data.dataset, data.subset, split=data.split, revision=data.revision, streaming=True)
    except (OSError, ValueError) as error:  # unknown name or subset, no network
        raise UserError.one(
            "finetune_data.unreadable",
            f"dataset {data.dataset}",
            f"cannot be read: {error}",
            "check name, subset, split and network",
        ) from error


def read_jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a file, one per line; blank lines are skipped.

    Raises:
        UserError: a line is not a JSON object.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError.one("file.not_jsonl", f"{path}:{number}", f"not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise UserError.one("file.not_jsonl", f"{path}:{number}", "not a JSON object")
            yield row


def conversation_of(row: Mapping[str, Any], data: FinetuneData, place: str) -> Messages:
    """A row as messages that end with an assistant's turn.

    They come from the column `data.messages`; if none is named and the row lacks the prompt column, from `messages`;
    else from the prompt and completion columns.

    Raises:
        UserError: a named column is missing or is not text.
    """
    column = data.messages or ("messages" if data.prompt not in row and "messages" in row else None)
    if column is not None:
        messages = [{"role": m["role"], "content": m["content"]} for m in _column(row, column, place)]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        return messages
    return [
        {"role": "user", "content": text_column(row, data.prompt, place)},
        {"role": "assistant", "content": text_column(row, data.completion, place)},
    ]


def text_column(row: Mapping[str, Any], name: str, place: str) -> str:
    """A row's text in a column; of a list of messages, the last one's content.

    Raises:
        UserError: the column is missing or is not text.
    """
    value = _column(row, name, place)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise UserError.one(
            "file.not_text", place, f"column {name!r} has a value of type {type(value).__name__}, not text"
        )
    return value


def _column(row: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in row:
        raise UserError.one(
            "file.missing_column", place, f"no column {name!r}", f"the columns are {', '.join(sorted(row))}"
        )
    return row[name]
