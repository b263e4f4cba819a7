"""Where a plan's variance components come from: given by hand, an earlier run's cells, or the published ones."""

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
"""Largest variance of a difference of two rates, where it is not 1."""
EXAMPLE = "persona=0.066,question=0.005,interaction=0.048,completion=0.31"


@dataclass(frozen=True)
class Sourced:
    """Variance components, and in words where they are from."""

    components: Components
    source: str


def published() -> Sourced:
    """Those that are taken when nothing else is given."""
    source = (
        "an earlier experiment (7 personas × 20 questions × 10 completions); yours may differ: give them with"
    )
    return Sourced(PUBLISHED, f"{source} {OPTION} or --from-cells")


def given_components(text: str) -> tuple[Sourced | None, list[Problem]]:
    """Read `persona=0.066,question=0.005,interaction=0.048,completion=0.31[,seed=0.001]`; None with what is wrong."""
    problems: list[Problem] = []
    values: dict[str, float] = {}
    known = (*NEEDED, "seed")
    seen: set[str] = set()
    for part in text.split(","):
        name, equals, written = (piece.strip() for piece in part.partition("="))
        if not equals:
            problems.append(
                Problem(
                    "plan_components.TODO",
                    OPTION,
                    f"`{part.strip()}` is not name=variance",
                    f"for instance {EXAMPLE}",
                )
            )
        elif name not in known:
            problems.append(
                Problem(
                    "plan_components.TODO",
                    OPTION,
                    f"`{name}` is no variance component",
                    did_you_mean(name, known),
                )
            )
        elif name in seen:
            problems.append(Problem("plan_components.TODO", OPTION, f"`{name}` is given twice"))
        else:
            value = _variance(name, written, problems)
            if value is not None:
                values[name] = value
        seen.add(name)
    if missing := [name for name in NEEDED if name not in seen]:
        problems.append(
            Problem(
                "plan_components.TODO", OPTION, f"{', '.join(missing)} not given", f"for instance {EXAMPLE}"
            )
        )
    if problems:
        return None, problems
    persona, question, interaction, completion = (values[name] for name in NEEDED)
    components = Components(persona, question, interaction, completion, values.get("seed"))
    return Sourced(components, f"given with {OPTION}"), []


def _variance(name: str, written: str, problems: list[Problem]) -> float | None:
    try:
        value = float(written)
    except ValueError:
        problems.append(Problem("plan_components.TODO", OPTION, f"{name} = `{written}` is not a number"))
        return None
    largest = LARGEST.get(name, 1.0)
    if 0 <= value <= largest:
        return value
    remedy = "a standard deviation of 25 pp is a variance of 0.0625"
    problems.append(
        Problem(
            "plan_components.TODO",
            OPTION,
            f"{name} = {written} is not a variance from 0 to {largest:g}",
            remedy,
        )
    )
    return None


def components_of_cells(
    path: Path, where: Sequence[Where], asked: Comparison
) -> tuple[Sourced | None, list[Problem]]:
    """Estimate the components from a CSV or Parquet file of cells, or from a finished run's folder.

    Of a run, the coupled cells at the selected lambda are taken. Where both conditions have the same two or
    more seeds, counts are added over them and the variance between training runs is estimated too.
    """
    try:
        file_path, selected = _of_run(path)
    except UserError as error:
        return None, list(error.problems)
    named = {wanted.column for wanted in where}
    filters = [*where, *(wanted for wanted in selected if wanted.column not in named)]
    file, problems = read_cell_file(file_path, filters)
    problems += name_problems(asked, file)
    if problems or file is None:
        return None, problems
    cells = compared(file, asked)
    by_seed = _by_seed(cells, asked)
    duplicates = [duplicate_problems(file, part) for part in by_seed.values()] or [
        duplicate_problems(file, cells)
    ]
    if problems := next((found for found in duplicates if found), []):
        return None, problems
    try:
        return _estimated(path, cells, by_seed, asked), []
    except UserError as error:
        return None, [
            Problem("plan_components.TODO", str(path), f"{p.place}: {p.message}", p.remedy)
            for p in error.problems
        ]


def _estimated(
    path: Path, cells: pl.DataFrame, by_seed: Mapping[str, pl.DataFrame], asked: Comparison
) -> Sourced:
    assert asked.treated is not None and asked.control is not None
    pooled = cells.group_by(KEYS, maintain_order=True).agg(pl.col("hits").sum(), pl.col("total").sum())
    paired = pair_cells(pooled, asked.treated, asked.control, asked.personas)
    components = estimate_components(paired)
    if len(by_seed) > 1:
        runs = [pair_cells(part, asked.treated, asked.control, asked.personas) for part in by_seed.values()]
        components = with_seed(components, runs)
    size = f"{len(paired.personas)} personas × {len(paired.questions)} questions"
    seeds = f" × {len(by_seed)} seeds" if len(by_seed) > 1 else ""
    return Sourced(components, f"{path}, {asked.treated} − {asked.control} over {size}{seeds}")


def _by_seed(cells: pl.DataFrame, asked: Comparison) -> dict[str, pl.DataFrame]:
    """The cells of each training run; nothing where the conditions do not have the same ones."""
    if "seed" not in cells.columns:
        return {}
    sides = [
        set(cells.filter(pl.col("condition") == side)["seed"]) for side in (asked.treated, asked.control)
    ]
    if sides[0] != sides[1] or None in sides[0]:
        return {}
    return {seed: cells.filter(pl.col("seed") == seed) for seed in sorted(sides[0])}


def _of_run(path: Path) -> tuple[Path, list[Where]]:
    """The file of cells that a path stands for, with the filters that a run's own table needs."""
    analysis = path / "analysis" if path.is_dir() else path.resolve().parent.parent
    cells, selection = analysis / "tables" / "cells.parquet", analysis / "lambda.json"
    if not path.is_dir() and not (path.resolve() == cells and selection.is_file()):
        return path, []
    if not cells.is_file() or not selection.is_file():
        raise UserError.one(
            "plan_components.TODO", str(path), "is not the folder of a finished run", f"there is no {cells}"
        )
    try:
        selected = json.loads(selection.read_text(encoding="utf-8"))["selected"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError.one(
            "plan_components.TODO", str(selection), "does not name the selected lambda"
        ) from error
    return cells, [Where("coupled", "true"), Where("lambda", str(selected))]
