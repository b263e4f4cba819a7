"""Finished completions on their way to the disk: a kill takes a chunk at most, and a restart asks for the rest."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from flatprobe.generation.engine import Completion, FinishReason, Request

ROWS = 256  # a chunk is written when it has so many,
SECONDS = 20.0  # or when its first completion has waited so long
SCHEMA = {
    "persona": pl.String, "question_id": pl.String, "sample_index": pl.Int64, "text": pl.String,
    "tokens": pl.Int64, "finish_reason": pl.String, "engine": pl.String,
}  # fmt: skip

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Sampled:
    """A completion as it is stored."""

    persona: str
    question_id: str
    sample_index: int
    text: str
    """Whole, as it was sampled."""
    tokens: int
    finish_reason: FinishReason
    engine: str
    """Name and version of what sampled it."""

    @classmethod
    def of(cls, request: Request, completion: Completion, engine: str) -> Sampled:
        return cls(
            request.prompt.persona, request.prompt.question_id, request.sample_index, completion.text,
            len(completion.tokens), completion.finish_reason, engine,
        )  # fmt: skip


def key_of(row: Request | Sampled) -> Key:
    """What tells the completions of a stage apart."""
    place = row.prompt if isinstance(row, Request) else row
    return place.persona, place.question_id, row.sample_index


class Chunks:
    """The completions of one stage, those of its earlier attempts included.

    Args:
        folder: where chunks are kept; None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.rows: dict[Key, Sampled] = {}
        self._folder = folder
        self._chunk: list[Sampled] = []
        self._since = 0.0
        self._written = 0
        for row in self._read():
            self.rows[key_of(row)] = row

    def add(self, row: Sampled) -> None:
        """Keep a completion, and write the chunk where it is due."""
        self.rows[key_of(row)] = row
        if not self._chunk:
            self._since = time.monotonic()
        self._chunk.append(row)
        if len(self._chunk) >= ROWS or time.monotonic() - self._since >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits; it is on the disk when this returns."""
        if self._folder is None or not self._chunk:
            return
        self._written += 1
        path = self._folder / f"chunk-{self._written:06}.parquet"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            pl.DataFrame([asdict(row) for row in self._chunk], schema=SCHEMA).write_parquet(file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        self._chunk = []

    def _read(self) -> Iterator[Sampled]:
        """What earlier attempts wrote; a chunk that cannot be read is removed, and its completions asked for again."""
        for path in [] if self._folder is None else sorted(self._folder.glob("chunk-*.parquet")):
            try:
                frame = pl.read_parquet(path, schema=SCHEMA)
            except (pl.exceptions.PolarsError, OSError) as error:
                sys.stderr.write(f"{path.name} is damaged, and sampled again: {error}\n")
                path.unlink()
                continue
            self._written = max(self._written, int(path.stem.rpartition("-")[2]))
            yield from (Sampled(**row) for row in frame.iter_rows(named=True))
