"""Draw one study from a population, with the true difference in every scope to which an estimator generalises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flatprobe.simulation.truth import Truth
from flatprobe.statistics.leakage.cells import PairedCells

Scope = Literal["population", "personas", "questions", "cells"]
OWN_SCOPE: dict[str, Scope] = {
    "completion_resampling": "cells",
    "cell_bootstrap": "population",
    "question_t": "personas",
    "question_bootstrap_t": "personas",
    "persona_t": "questions",
    "persona_sign_flip": "questions",
    "crossed_anova": "population",
    "two_way_cluster_t": "population",
    "pigeonhole_t": "population",
}
"""Estimator to what it holds fixed: nothing (`population`), these personas, these questions, or these cells."""


@dataclass(frozen=True)
class StudySize:
    """The size of a simulated study."""

    personas: int = 7
    """Bystanders."""
    questions: int = 20
    completions: int = 10
    """Completions per cell."""


@dataclass(frozen=True)
class DrawnStudy:
    """The counts of one study and its true differences."""

    cells: PairedCells
    truths: dict[Scope, float]
    """True difference of rates, treated minus control, by scope: of the population; of all questions with these
    personas (`personas`); of all personas with these questions (`questions`); of exactly these cells."""


def draw(truth: Truth, size: StudySize, generator: np.random.Generator) -> DrawnStudy:
    """Draw personas, questions, cells and binomial completions of both conditions."""
    personas, questions = size.personas, size.questions
    u_CP = generator.normal(scale=truth.persona**0.5, size=(2, personas))
    v_CQ = generator.normal(scale=truth.question**0.5, size=(2, questions))
    w_CPQ = generator.normal(scale=truth.interaction**0.5, size=(2, personas, questions))
    total = truth.persona + truth.question + truth.interaction
    rates_CPQ = truth.expected_rate_C(u_CP[:, :, None] + v_CQ[:, None, :] + w_CPQ, total)
    hits_CPQ = generator.binomial(size.completions, rates_CPQ)
    totals = np.full(personas * questions, size.completions, dtype=np.int64)
    return DrawnStudy(
        cells=PairedCells(
            personas=tuple(f"persona {index}" for index in range(personas)),
            questions=tuple(f"question {index}" for index in range(questions)),
            hits_treated=hits_CPQ[0].ravel(),
            total_treated=totals,
            hits_control=hits_CPQ[1].ravel(),
            total_control=totals,
            missing=0,
        ),
        truths={
            "population": truth.difference,
            "personas": _difference(truth.expected_rate_C(u_CP, truth.persona)),
            "questions": _difference(truth.expected_rate_C(v_CQ, truth.question)),
            "cells": _difference(rates_CPQ.reshape(2, -1)),
        },
    )


def _difference(rates_Cn: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(rates_Cn[0].mean() - rates_Cn[1].mean())
