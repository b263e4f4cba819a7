"""Expected mean squares of a planned table of differences, and their variation between studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special
from scipy.stats import qmc

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.planning.components import Components

STUDIES_LOG2 = 11
"""2048 evenly spread quantiles represent all studies; tail probabilities of .001 are right to a few per cent."""


@dataclass(frozen=True)
class Design:
    """Sample sizes: every persona answers every question K times in each training run."""

    personas: int
    questions: int
    completions: int
    """Per persona, question, condition and training run."""
    seeds: int = 1
    resamples: int = 10_000
    """Bootstrap draws."""

    def __post_init__(self) -> None:
        names = ("personas", "questions", "completions", "seeds", "resamples")
        low = [name for name in names if getattr(self, name) < 1]
        if low:
            raise UserError(
                [
                    Problem("design.size", f"design {name}", f"{getattr(self, name)} is too small", "at least 1")
                    for name in low
                ]
            )

    @property
    def cells(self) -> int:
        return self.personas * self.questions


@dataclass(frozen=True)
class MeanSquare:
    """Expected mean square of a line of the analysis of variance, with its degrees of freedom."""

    expected: float
    df: int


def expected_mean_squares(design: Design, components: Components) -> dict[str, MeanSquare]:
    """Expected mean squares of the pooled table; `run` is between runs, `… within run` around a run's mean."""
    personas, questions, seeds = design.personas, design.questions, design.seeds
    noise = components.noise / (design.completions * seeds)
    cell = components.interaction + noise
    lines = {
        "persona": MeanSquare(questions * components.persona + cell, personas - 1),
        "question": MeanSquare(personas * components.question + cell, questions - 1),
        "cell": MeanSquare(cell, (personas - 1) * (questions - 1)),
    }
    if seeds > 1:
        between = design.cells * (components.seed or 0.0) / seeds + noise
        lines["run"] = MeanSquare(between, seeds - 1)
        for name in ("persona", "question", "cell"):
            lines[f"{name} within run"] = MeanSquare(noise, lines[name].df * (seeds - 1))
    return {name: line for name, line in lines.items() if line.df > 0}


def scattered(lines: Sequence[MeanSquare]) -> Array:
    """Mean squares (N, lines) of N equally likely studies: independent, expected * chi-square / df.

    Chi-square quantiles at the interval midpoints of a Sobol sequence, so every call gives the same numbers.
    """
    points_NL = _points(len(lines))
    df_L = np.array([line.df for line in lines], dtype=np.float64)
    expected_L = np.array([line.expected for line in lines])
    squares_NL: Array = expected_L * special.gammaincinv(df_L / 2, points_NL) / (df_L / 2)
    return squares_NL


@lru_cache(maxsize=8)
def _points(dimensions: int) -> Array:
    points: Array = qmc.Sobol(dimensions, scramble=False).random_base2(STUDIES_LOG2) + 0.5 / 2**STUDIES_LOG2
    points.flags.writeable = False
    return points
