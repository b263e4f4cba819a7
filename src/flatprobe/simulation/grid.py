"""The grid of simulated studies: its checks, and its simulation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from flatprobe.errors import Problem, UserError
from flatprobe.simulation.cells import StudySize
from flatprobe.simulation.joint import DIFFERENCE, TRUTHS, JointCell, JointRow, joint_row, simulate_joint
from flatprobe.simulation.leakage import LeakageCell, LeakageRow, leakage_rows, simulate_leakage
from flatprobe.simulation.processes import spread
from flatprobe.simulation.truth import calibrate, regime
from flatprobe.statistics.bootstrap import Array
from flatprobe.study.decision_schema import Decision

REGIMES = ("none", "mild", "parent")
CHUNK = 25
"""Studies per work item of a process; results do not depend on it."""

Cell = LeakageCell | JointCell


@dataclass(frozen=True)
class Grid:
    """The simulated studies; fields and defaults are those of the command's options."""

    studies: int = 400
    """Simulated studies per cell of the grid."""
    size: StudySize = field(default_factory=StudySize)
    resamples: int = 2000
    """Bootstrap draws in each study."""
    variances: tuple[str, ...] = REGIMES
    """Regimes of variance components."""
    truths: tuple[float, ...] = (0.0, 0.15, 0.30)
    """Population differences of rates of the leakage studies."""
    joint: bool = True
    """Whether to simulate studies of both probes, with their verdict, too."""
    seed: int = 0
    rule: Decision = field(default_factory=Decision)
    """The leakage studies test its margin, the joint studies the whole rule."""


@dataclass(frozen=True)
class Simulated:
    """The results, in the grid's order."""

    leakage: tuple[LeakageRow, ...]
    joint: tuple[JointRow, ...]


@dataclass(frozen=True)
class _Chunk:
    cell: Cell
    first: int
    count: int
    seed: int


def grid_problems(grid: Grid) -> list[Problem]:
    """Everything that is wrong with a grid. The places are the names of its options, without dashes."""
    least = {"studies": 2, "personas": 2, "questions": 2, "completions": 1, "resamples": 1, "seed": 0}
    values = {**vars(grid.size), "studies": grid.studies, "resamples": grid.resamples, "seed": grid.seed}
    problems = [
        Problem("simulation.size", name, f"{values[name]} is too small", f"at least {low}")
        for name, low in least.items()
        if values[name] < low
    ]
    for name, choices in (("variance", grid.variances), ("truth", grid.truths)):
        if not choices or len(set(choices)) < len(choices):
            problems.append(Problem("simulation.values", name, "no value, or one value twice", "give each value once"))
    for name in grid.variances:
        if name not in REGIMES:
            problems.append(
                Problem("simulation.regime", "variance", f"{name!r} is unknown", f"choose from {', '.join(REGIMES)}")
            )
    regimes = [name for name in grid.variances if name in REGIMES]
    for truth in grid.truths:
        problems += _truth_problems(truth, regimes)
    floor = 2 / (grid.resamples + 1)
    if grid.joint and grid.rule.behaviour.estimator == "cell_bootstrap" and floor >= grid.rule.behaviour.p_below:
        least_resamples = math.floor(2 / grid.rule.behaviour.p_below)
        problems.append(
            Problem(
                "simulation.resamples",
                "resamples",
                f"the smallest attainable p, {floor:.2g}, is not below the rule's {grid.rule.behaviour.p_below}",
                f"at least {least_resamples}, or no joint studies",
            )
        )
    return problems


def simulate(grid: Grid, jobs: int = 1, done: Callable[[int, int], None] = lambda finished, total: None) -> Simulated:
    """Simulate every cell of the grid with `jobs` processes.

    The result depends only on the grid: each study's random numbers come from the seed, the name of its cell and its
    number in the cell. Calls `done` with the number of finished studies and of all studies. Raises UserError with
    everything that is wrong.
    """
    problems = grid_problems(grid)
    if jobs < 1:
        problems.append(Problem("simulation.size", "jobs", f"{jobs} is too small", "at least 1"))
    if problems:
        raise UserError(problems)
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
            yield LeakageCell(name, calibrate(regime(name), truth), grid.size, grid.resamples, margin)
    for name in grid.variances if grid.joint else ():
        for joint_truth in TRUTHS:
            difference = DIFFERENCE if joint_truth in ("behaviour", "both") else 0.0
            population = calibrate(regime(name), difference)
            yield JointCell(name, joint_truth, population, grid.size, grid.resamples, grid.rule)


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
    if not math.isfinite(truth):
        message = f"{truth} is not a difference of rates"
        return [Problem("simulation.truth", "truth", message, "between -1 and 1")]
    problems: list[Problem] = []
    for name in regimes:
        try:
            calibrate(regime(name), truth)
        except UserError as error:
            problems += [replace(problem, message=f"{name}: {problem.message}") for problem in error.problems]
    return problems
