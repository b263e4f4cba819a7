"""The results of a finished run as objects and data frames, read from its `analysis/` folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.decision.verdict import Verdict
from flatprobe.errors import Problem, UserError
from flatprobe.statistics.estimate import Estimate

REMEDY = "run the study, or `flatprobe report STUDY` to write its analysis again"


@dataclass(frozen=True)
class Results:
    """What a finished run came to."""

    folder: Path
    """The run folder."""
    study: Mapping[str, Any]
    """The study as it was run, all defaults filled in."""
    digest: str
    """The study's digest: 64 hexadecimal digits."""
    verdict: Verdict | None
    """None in a study without a coupling, which decides nothing."""
    estimates: tuple[Estimate, ...]
    """Every contrast with its interval and p."""

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, for `results[name]`."""
        return tuple(sorted(path.stem for path in (self.folder / "analysis" / "tables").glob("*.parquet")))

    def __getitem__(self, name: str) -> pl.DataFrame:
        """A table of the run: `cells`, `rates`, `completions`, `cosines`, `geometry`, `telemetry`, …

        Raises:
            KeyError: the run has no such table.
            UserError: the table is damaged.
        """
        if name not in self.tables:
            raise KeyError(f"{name!r}: the tables are {', '.join(self.tables)}")
        path = self.folder / "analysis" / "tables" / f"{name}.parquet"
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError.one("results.damaged", str(path), "cannot be read as Parquet", REMEDY) from error

    def estimates_frame(self) -> pl.DataFrame:
        """A row per estimate."""
        from flatprobe.statistics.estimate import estimates_frame

        return estimates_frame(self.estimates)


def read_results(run_folder: str | Path) -> Results:
    """Read the results of a finished run; needs no torch.

    Args:
        run_folder: the folder that `flatprobe run` names, such as `runs/demo`.

    Raises:
        UserError: the folder holds no finished run, or a file of its analysis is damaged.

    Example:
        >>> import flatprobe
        >>> results = flatprobe.read_results("runs/demo")  # doctest: +SKIP
        >>> results.verdict.verdict, results["rates"].columns  # doctest: +SKIP
    """
    folder = Path(run_folder)
    analysis = folder / "analysis"
    if not (analysis / "study.json").is_file():
        raise UserError.one("results.no_run", str(folder), "no finished run in this folder", REMEDY)
    problems: list[Problem] = []

    def document(name: str) -> Any:
        path = analysis / f"{name}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(Problem("results.damaged", str(path), f"cannot be read: {error}", REMEDY))
            return None

    study, registration, rows = document("study"), document("registration"), document("estimates")
    decided = document("verdict") if (analysis / "verdict.json").exists() else None
    if problems:
        raise UserError(problems)
    try:
        return Results(
            folder=folder,
            study=study,
            digest=registration["digest"],
            verdict=None if decided is None else Verdict.from_json(decided),
            estimates=tuple(Estimate.from_json(row) for row in rows),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError.one("results.damaged", str(analysis), f"not what a run writes: {error}", REMEDY) from error
