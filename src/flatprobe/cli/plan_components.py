"""Variance components of a plan: given as an option, estimated from an earlier run's cells, or the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatprobe.config.suggest import did_you_mean
from flatprobe.counts.cell_files import KEYS, Where, read_cell_file
from flatprobe.counts.comparison import Comparison, compared, duplicate_problems, name_problems
from flatprobe.errors import Problem, UserError
from flatprobe.statistics.leakage.cells import pair_cells
from flatprobe.statistics.planning.components import PUBLISHED, Components, estimate_components, with_seed

OPTION = "--components"
NEEDED = ("persona", "question", "interaction", "completion")
LARGEST = {"completion": 0.5}
"""Largest possible variance, where it is not 1."""
EXAMPLE = "persona=0.066,question=0.005,interaction=0.048,completion=0.31"


@dataclass(frozen=True)
class Sourced:
    """Variance components, and their source in words."""

    components: Components
    source: str


def published() -> Sourced:
    """The default components."""
    source = "an earlier experiment (7 personas × 20 questions × 10 completions); yours may differ: give your own with"
    return Sourced(PUBLISHED, f"{source} {OPTION} or --from-cells")


def given_components(text: str) -> tuple[Sourced | None, list[Problem]]:
    """Read `persona=0.066,question=0.005,interaction=0.048,completion=0.31[,seed=0.001]`; None with what is wrong."""
    problems: list[Problem] = []
    values: dict[str, float] = {}
    components = (*NEEDED, "seed")
    seen: set[str] = set()

    def refuse(message: str, remedy: str | None = None) -> None:
        problems.append(Problem("options.components", OPTION, message, remedy))

    for part in text.split(","):
        name, equals, written = (piece.strip() for piece in part.partition("="))
        if not equals:
            refuse(f"`{part.strip()}` is not name=variance", f"for instance {EXAMPLE}")
        elif name not in components:
            refuse(f"`{name}` is no variance component", did_you_mean(name, components))
        elif name in seen:
            refuse(f"`{name}` is given twice")
        else:
            try:
                values[name] = _variance(name, written)
            except ValueError as error:
                refuse(str(error), "an SD of 25 pp is a variance of 0.0625")
        seen.add(name)
    if missing := [name for name in NEEDED if name not in seen]:
        refuse(f"{', '.join(missing)} not given", f"for instance {EXAMPLE}")
    if problems:
        return None, problems
    persona, question, interaction, completion = (values[name] for name in NEEDED)
    given = Components(persona, question, interaction, completion, values.get("seed"))
    return Sourced(given, f"given with {OPTION}"), []


def _variance(name: str, written: str) -> float:
    """The variance; ValueError with the message for another text."""
    try:
        value = float(written)
    except ValueError:
        raise ValueError(f"{name} = `{written}` is not a number") from None
    largest = LARGEST.get(name, 1.0)
    if not 0 <= value <= largest:
        raise ValueError(f"{name} = {written} is not a variance from 0 to {largest:g}")
    return value


def components_of_cells(
    path: Path, where: Sequence[Where], comparison: Comparison
) -> tuple[Sourced | None, list[Problem]]:
    """Estimate the components from a CSV or Parquet file of cells, or from a finished run's folder.

    A run gives its coupled cells at the selected lambda. If both conditions have the same two or more seeds, counts are
    added over them and the variance between training runs is estimated too.
    """
    try:
        file_path, selected = _of_run(path)
    except UserError as error:
        return None, list(error.problems)
    columns = {condition.column for condition in where}
    filters = [*where, *(condition for condition in selected if condition.column not in columns)]
    file, problems = read_cell_file(file_path, filters)
    problems += name_problems(comparison, file)
    if problems or file is None:
        return None, problems
    cells = compared(file, comparison)
    by_seed = _by_seed(cells, comparison)
    duplicates = [duplicate_problems(file, part) for part in by_seed.values()] or [duplicate_problems(file, cells)]
    if problems := next((some for some in duplicates if some), []):
        return None, problems
    try:
        return _estimated(path, cells, by_seed, comparison), []
    except UserError as error:
        return None, [Problem(p.code, str(path), f"{p.place}: {p.message}", p.remedy) for p in error.problems]


def _estimated(path: Path, cells: pl.DataFrame, by_seed: Mapping[str, pl.DataFrame], comparison: Comparison) -> Sourced:
    assert comparison.treated is not None and comparison.control is not None
    pooled = cells.group_by(KEYS, maintain_order=True).agg(pl.col("hits").sum(), pl.col("total").sum())
    paired = pair_cells(pooled, comparison.treated, comparison.control, comparison.personas)
    components = estimate_components(paired)
    if len(by_seed) > 1:
        runs = [
            pair_cells(part, comparison.treated, comparison.control, comparison.personas) for part in by_seed.values()
        ]
        components = with_seed(components, runs)
    size = f"{len(paired.personas)} personas × {len(paired.questions)} questions"
    seeds = f" × {len(by_seed)} seeds" if len(by_seed) > 1 else ""
    contrast = f"{comparison.treated} − {comparison.control}"
    return Sourced(components, f"{path}, {contrast} over {size}{seeds}")


def _by_seed(cells: pl.DataFrame, comparison: Comparison) -> dict[str, pl.DataFrame]:
    """The cells of each training run; empty if the conditions have different ones."""
    if "seed" not in cells.columns:
        return {}
    sides = [
        set(cells.filter(pl.col("condition") == side)["seed"]) for side in (comparison.treated, comparison.control)
    ]
    if sides[0] != sides[1] or None in sides[0]:
        return {}
    return {seed: cells.filter(pl.col("seed") == seed) for seed in sorted(sides[0])}


def _of_run(path: Path) -> tuple[Path, list[Where]]:
    """The file of cells behind a path, and the filters that a run's own table needs."""
    analysis = path / "analysis" if path.is_dir() else path.resolve().parent.parent
    cells, selection = analysis / "tables" / "cells.parquet", analysis / "lambda.json"
    if not path.is_dir() and not (path.resolve() == cells and selection.is_file()):
        return path, []
    if not cells.is_file() or not selection.is_file():
        raise UserError.one(
            "run.not_finished", str(path), "is not the folder of a finished run", f"there is no {cells}"
        )
    try:
        selected = json.loads(selection.read_text(encoding="utf-8"))["selected"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError.one("run.selection", str(selection), "does not name the selected lambda") from error
    return cells, [Where("coupled", "true"), Where("lambda", str(selected))]
