"""The grid of simulated studies: what is wrong with one, and running it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from flatprobe.errors import Problem, UserError
from flatprobe.simulation.cells import Design
from flatprobe.simulation.joint import (
    DIFFERENCE,
    TRUTHS,
    JointCell,
    JointRow,
    joint_row,
    simulate_joint,
)
from flatprobe.simulation.leakage import LeakageCell, LeakageRow, leakage_rows, simulate_leakage
from flatprobe.simulation.processes import spread
from flatprobe.simulation.truth import calibrate, regime
from flatprobe.statistics.bootstrap import Array
from flatprobe.study.decision_schema import Decision

REGIMES = ("none", "mild", "parent")
CHUNK = 25
"""Studies that a process simulates at a time; results do not depend on it."""

Cell = LeakageCell | JointCell


@dataclass(frozen=True)
class Grid:
    """What is simulated; the fields are the command's options."""

    studies: int = 400
    """Simulated studies per cell of the grid."""
    design: Design = field(default_factory=Design)
    resamples: int = 2000
    """Bootstrap draws in each study."""
    variances: tuple[str, ...] = REGIMES
    """Regimes of variance components."""
    truths: tuple[float, ...] = (0.0, 0.15, 0.30)
    """Population differences of rates of the leakage studies."""
    joint: bool = True
    """Also simulate studies of both probes, and the verdict."""
    seed: int = 0
    rule: Decision = field(default_factory=Decision)
    """The rule: its margin is tested by the leakage studies, all of it by the joint ones."""


@dataclass(frozen=True)
class Simulated:
    """What came out, in the grid's order."""

    leakage: tuple[LeakageRow, ...]
    joint: tuple[JointRow, ...]


@dataclass(frozen=True)
class _Chunk:
    cell: Cell
    first: int
    count: int
    seed: int


def problems(grid: Grid) -> list[Problem]:
    """Everything that is wrong with a grid; the places are its options' names without dashes."""
    least = {"studies": 2, "personas": 2, "questions": 2, "completions": 1, "resamples": 1, "seed": 0}
    given = {**vars(grid.design), "studies": grid.studies, "resamples": grid.resamples, "seed": grid.seed}
    found = [
        Problem("grid.TODO", name, f"{given[name]} is too small", f"at least {low}")
        for name, low in least.items()
        if given[name] < low
    ]
    for name, values in (("variance", grid.variances), ("truth", grid.truths)):
        if not values or len(set(values)) < len(values):
            found.append(Problem("grid.TODO", name, "empty, or a value stands twice", "give each value once"))
    for name in grid.variances:
        if name not in REGIMES:
            found.append(
                Problem("grid.TODO", "variance", f"{name!r} is unknown", f"any of {', '.join(REGIMES)}")
            )
    regimes = [name for name in grid.variances if name in REGIMES]
    for truth in grid.truths:
        found += _truth_problems(truth, regimes)
    floor = 2 / (grid.resamples + 1)
    if (
        grid.joint
        and grid.rule.behaviour.estimator == "cell_bootstrap"
        and floor >= grid.rule.behaviour.p_below
    ):
        least_resamples = math.floor(2 / grid.rule.behaviour.p_below)
        found.append(
            Problem(
                "grid.TODO",
                "resamples",
                f"the smallest attainable p, {floor:.2g}, is not below the rule's {grid.rule.behaviour.p_below}",
                f"at least {least_resamples}, or no joint studies",
            )
        )
    return found


def simulate(
    grid: Grid, jobs: int = 1, done: Callable[[int, int], None] = lambda finished, total: None
) -> Simulated:
    """Simulate every cell of the grid with `jobs` processes.

    The result depends on the grid only: each study's random numbers come from the seed, the name of its cell and
    its number in the cell. `done` is told how many studies of how many are finished. Raises UserError with
    everything that is wrong.
    """
    found = problems(grid)
    if jobs < 1:
        found.append(Problem("grid.TODO", "jobs", f"{jobs} is too small", "at least 1"))
    if found:
        raise UserError(found)
    cells = list(_cells(grid))
    chunks = [
        _Chunk(cell, first, min(CHUNK, grid.studies - first), grid.seed)
        for cell in cells
        for first in range(0, grid.studies, CHUNK)
    ]
    counter = _Counter(len(cells) * grid.studies, done)
    parts = spread(_simulate_chunk, chunks, jobs, counter)
    per_cell = math.ceil(grid.studies / CHUNK)
    leakage: list[LeakageRow] = []
    joint: list[JointRow] = []
    for index, cell in enumerate(cells):
        outcomes = np.concatenate(parts[index * per_cell : (index + 1) * per_cell])
        if isinstance(cell, LeakageCell):
            leakage += leakage_rows(cell, outcomes)
        else:
            joint.append(joint_row(cell, outcomes))
    return Simulated(tuple(leakage), tuple(joint))


@dataclass
class _Counter:
    total: int
    done: Callable[[int, int], None]
    finished: int = 0

    def __call__(self, chunk: _Chunk) -> None:
        self.finished += chunk.count
        self.done(self.finished, self.total)


def _cells(grid: Grid) -> Iterator[Cell]:
    margin = grid.rule.behaviour.margin
    for name in grid.variances:
        for truth in grid.truths:
            yield LeakageCell(name, calibrate(regime(name), truth), grid.design, grid.resamples, margin)
    for name in grid.variances if grid.joint else ():
        for joint_truth in TRUTHS:
            difference = DIFFERENCE if joint_truth in ("behaviour", "both") else 0.0
            population = calibrate(regime(name), difference)
            yield JointCell(name, joint_truth, population, grid.design, grid.resamples, grid.rule)


def _simulate_chunk(chunk: _Chunk) -> Array:
    """Outcomes of consecutive studies of one cell, stacked along the first axis."""
    cell = chunk.cell
    study: Callable[[np.random.Generator], Array] = (
        partial(simulate_leakage, cell) if isinstance(cell, LeakageCell) else partial(simulate_joint, cell)
    )
    key = zlib.crc32(cell.label.encode())
    seeds = (
        np.random.SeedSequence(chunk.seed, spawn_key=(key, number))
        for number in range(chunk.first, chunk.first + chunk.count)
    )
    return np.stack([study(np.random.default_rng(seed)) for seed in seeds])


def _truth_problems(truth: float, regimes: list[str]) -> list[Problem]:
    found: list[Problem] = []
    if not math.isfinite(truth):
        return [Problem("grid.TODO", "truth", f"{truth} is not a difference of rates", "between -1 and 1")]
    for name in regimes:
        try:
            calibrate(regime(name), truth)
        except UserError as error:
            found += [Problem("grid.TODO", problem.place, f"{name}: {problem.message}", problem.remedy)
                      for problem in error.problems]  # fmt: skip
    return found
