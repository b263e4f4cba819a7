"""Save completions while sampling: a kill loses one chunk at most, and a restart samples only what is missing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import polars as pl

from flatprobe.generation.engine import Completion, CompletionRequest, FinishReason

ROWS = 256  # a chunk is written when it holds so many completions,
SECONDS = 20.0  # or when its first completion is so old

Key = tuple[str, str, int]


@dataclass(frozen=True)
class SavedCompletion:
    """A row of completions.parquet, without what follows from its persona and prompt."""

    persona: str
    question_id: str
    sample_index: int
    text: str
    """As sampled, not stripped."""
    tokens: int
    finish_reason: FinishReason
    engine: str
    """Name and version of the engine that sampled it."""

    @classmethod
    def of(cls, request: CompletionRequest, completion: Completion, engine: str) -> SavedCompletion:
        return cls(
            persona=request.prompt.persona,
            question_id=request.prompt.question_id,
            sample_index=request.sample_index,
            text=completion.text,
            tokens=len(completion.tokens),
            finish_reason=completion.finish_reason,
            engine=engine,
        )


SCHEMA = {field.name: pl.Int64 if field.type == "int" else pl.String for field in fields(SavedCompletion)}


def key_of(row: CompletionRequest | SavedCompletion) -> Key:
    """Identifies a completion within its stage."""
    cell = row.prompt if isinstance(row, CompletionRequest) else row
    return cell.persona, cell.question_id, row.sample_index


def frame_of(rows: Sequence[SavedCompletion]) -> pl.DataFrame:
    """One row per completion."""
    return pl.DataFrame([asdict(row) for row in rows], schema=SCHEMA)


class CompletionStore:
    """All completions of one stage, including those of earlier attempts.

    Args:
        folder: where chunks are written; None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.rows: dict[Key, SavedCompletion] = {}
        self._folder = folder
        self._chunk: list[SavedCompletion] = []
        self._chunk_began = 0.0
        self._chunks_written = 0
        for row in self._read():
            self.rows[key_of(row)] = row

    def add(self, row: SavedCompletion) -> None:
        """Add a completion; write the chunk if it is due."""
        self.rows[key_of(row)] = row
        if not self._chunk:
            self._chunk_began = time.monotonic()
        self._chunk.append(row)
        if len(self._chunk) >= ROWS or time.monotonic() - self._chunk_began >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the current chunk to disk and sync it."""
        if self._folder is None or not self._chunk:
            return
        self._chunks_written += 1
        path = self._folder / f"chunk-{self._chunks_written:06}.parquet"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            frame_of(self._chunk).write_parquet(file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        self._chunk = []

    def _read(self) -> Iterator[SavedCompletion]:
        """Completions of earlier attempts. An unreadable chunk is deleted, so its completions are sampled again."""
        for path in [] if self._folder is None else sorted(self._folder.glob("chunk-*.parquet")):
            try:
                frame = pl.read_parquet(path, schema=SCHEMA)
            except (pl.exceptions.PolarsError, OSError) as error:
                sys.stderr.write(f"{path.name} is damaged; sampling its completions again: {error}\n")
                path.unlink()
                continue
            self._chunks_written = max(self._chunks_written, int(path.stem.rpartition("-")[2]))
            yield from (SavedCompletion(**row) for row in frame.iter_rows(named=True))
