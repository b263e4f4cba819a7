"""From a file of completions to cells: how many of each cell's completions contain the marker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatprobe.counts.completion_files import FURTHER_KEYS, KEYS, read_blocks
from flatprobe.counts.text_table import LINE, first_ones, place
from flatprobe.errors import Problem, UserError
from flatprobe.statistics.leakage.rates import score

SAMPLE = "sample_index"
COUNTS = ("hits", "total", "end_hits", "start_hits", "multi_hits")


@dataclass(frozen=True)
class Scored:
    """The cells of a file of completions."""

    cells: pl.DataFrame
    """condition, persona, question_id; lambda, seed and coupled where the file has them; and `COUNTS`: strict hits,
    completions, and completions that end with, begin with or repeat the marker. Sorted by keys."""

    @property
    def settings(self) -> list[str]:
        """The optional keys that the file has."""
        return [name for name in FURTHER_KEYS if name in self.cells.columns]


def score_file(path: Path, marker: str) -> Scored:
    """Score completions in blocks, so that memory holds one block of texts (JSONL).

    Raises:
        UserError: everything that is wrong with the file, with its lines.
    """
    problems: list[Problem] = []
    blocks = list(_marked_blocks(path, marker, problems))
    if not blocks:
        raise UserError(
            problems
            or [Problem("completions.empty", str(path), "contains no completion", "give one JSON object per line")]
        )
    rows = pl.concat(blocks)
    settings = [name for name in FURTHER_KEYS if rows[name].is_not_null().any()]
    problems += _repeated(path, rows)
    if problems:
        raise UserError(problems)
    keys = [*KEYS, *settings]
    counts = rows.group_by(keys).agg(
        pl.col("hits").sum(), pl.len().cast(pl.Int64).alias("total"),
        *(pl.col(name).sum() for name in COUNTS[2:]),
    )  # fmt: skip
    return Scored(counts.select(*keys, *COUNTS).sort(keys))


def _marked_blocks(path: Path, marker: str, problems: list[Problem]) -> Iterator[pl.DataFrame]:
    for block in read_blocks(path, problems):
        marked = score(block, marker)
        yield marked.select(
            *KEYS, *FURTHER_KEYS, SAMPLE, LINE,
            hits=pl.col("marker_present").cast(pl.Int64),
            end_hits=pl.col("ends_with_marker").cast(pl.Int64),
            start_hits=pl.col("starts_with_marker").cast(pl.Int64),
            multi_hits=(pl.col("marker_count") >= 2).cast(pl.Int64),
        )  # fmt: skip


def _repeated(path: Path, rows: pl.DataFrame) -> list[Problem]:
    """Samples that appear more than once: counting one twice would make the rates look more certain than they are."""
    sample = [*KEYS, *FURTHER_KEYS, SAMPLE]
    again = rows.select(*sample, LINE, first=pl.col(LINE).min().over(sample)).filter(pl.col(LINE) > pl.col("first"))
    problems = []
    for row in again.sort(LINE).iter_rows(named=True):
        named = " / ".join(str(row[key]) for key in (*KEYS, SAMPLE))
        problems.append(
            Problem(
                "completions.duplicate_sample",
                place(path, row[LINE]),
                f"{named} is already at {place(path, row['first'])}",
            )
        )
    return first_ones(path, problems)
