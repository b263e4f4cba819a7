"""`flatprobe score`: count the marker in completions; the result is the table that `flatprobe analyse` reads."""

from __future__ import annotations

import shlex
from pathlib import Path

import polars as pl

from flatprobe import console
from flatprobe.cli.options import TABLES, output_problems, write_table
from flatprobe.counts.scoring import Scored, score_file
from flatprobe.errors import Problem, UserError
from flatprobe.report.numbers import percent


def score_completions(completions: Path, marker: str, out: Path) -> None:
    """Score a file of completions, write its cells, and print a summary.

    Raises:
        UserError: everything that is wrong with the options and the file, at once; nothing is written then.
    """
    problems = [*_marker_problems(marker), *output_problems("--out", out, [completions], TABLES)]
    try:
        scored = score_file(completions, marker)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    if problems:
        raise UserError(problems)
    write_table(scored.cells, out)
    _show(scored, marker, out)


def _marker_problems(marker: str) -> list[Problem]:
    if not marker.strip():
        message = "is empty: every completion would contain it"
        return [Problem("marker.empty", "--marker", message, 'for instance "[ZLT]"')]
    if marker != marker.strip():
        message = f"{marker!r} begins or ends with white space"
        return [Problem("marker.outer_space", "--marker", message, f"write {shlex.quote(marker.strip())}")]
    return []


def _show(scored: Scored, marker: str, out: Path) -> None:
    cells, settings = scored.cells, scored.settings
    totals = cells["total"].to_list()
    total, least, most = sum(totals), min(totals), max(totals)
    console.say(f"{total:,} completions in {cells.height:,} cells, scored for {marker} in any case: {out}")
    if least != most:
        console.say(f"Cells hold {least} to {most} completions; `analyse` gives every cell the same weight.")
    arms = cells.group_by("condition", *settings, maintain_order=True).agg(
        pl.col("hits", "total", "end_hits", "start_hits", "multi_hits").sum()
    )
    counted = ("completions", "marked", "at the end", "at the start", "twice or more")
    rows = [
        (
            *("–" if row[name] is None else row[name] for name in ("condition", *settings)),
            f"{row['total']:,}",
            *(percent(row[name] / row["total"]) for name in ("hits", "end_hits", "start_hits", "multi_hits")),
        )
        for row in arms.iter_rows(named=True)
    ]
    console.table(("condition", *settings, *counted), rows, right=counted)
    console.say(f"Personas: {', '.join(cells['persona'].unique(maintain_order=True))}")
    console.say(f"Next: {next_command(scored, out)}")


def next_command(scored: Scored, out: Path) -> str:
    """The command that compares these cells; the user fills in the capitals."""
    cells = scored.cells
    filters = [f" --where {name}=VALUE" for name in scored.settings if cells[name].n_unique() > 1]
    return (
        f"flatprobe analyse {shlex.quote(str(out))} --treated CONDITION --control CONDITION "
        f"--bystanders PERSONA,PERSONA,…{''.join(filters)}"
    )
