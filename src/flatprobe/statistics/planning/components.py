"""Variance components of the leakage difference, from which a design is planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.leakage.cells import PLACE, PairedCells


@dataclass(frozen=True)
class Components:
    """Variances on the scale of a difference of rates (persona .0625 is a standard deviation of 25 pp).

    The observed difference of a cell is delta + persona + question + interaction + completion noise, independent with
    mean 0. Each training run adds one further draw to all its cells.
    """

    persona: float
    """Between personas, of the true difference averaged over questions."""
    question: float
    """Between questions, of the true difference averaged over personas."""
    interaction: float
    """Of a cell's true difference around its persona and question. Includes the completion noise where `completion` is
    None."""
    completion: float | None
    """Binomial noise of one pair of completions, p_t (1 - p_t) + p_c (1 - p_c); with K pairs, 1/K of it remains."""
    seed: float | None = None
    """Between training runs, of the mean difference; None means unknown, not 0."""
    notes: tuple[str, ...] = ()
    """Corrections made to get these numbers."""

    def __post_init__(self) -> None:
        for name in ("persona", "question", "interaction", "completion", "seed"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError.one(
                    "components.variance", f"variance component {name}", f"{value} is not a variance", "give 0 or more"
                )

    @property
    def noise(self) -> float:
        """The completion noise of one pair; 0 where the interaction includes it."""
        return self.completion or 0.0


PUBLISHED = Components(
    persona=0.06594235588972432,
    question=0.004562656641604005,
    interaction=0.0479703425229741,
    completion=0.3065873015873016,
)
"""Of an earlier experiment with 7 personas x 20 questions x 10 completions, between an emergently misaligned
and a base checkpoint (30 pp more leakage). `examples/leakage_cells.csv` has its counts."""


def estimate_components(paired: PairedCells) -> Components:
    """Method of moments on the balanced two-way table of differences (Searle, Casella and McCulloch 1992, ch. 4).

    With mean squares MS over P personas, Q questions and cells: persona = (MS_P - MS_PQ) / Q, question =
    (MS_Q - MS_PQ) / P, interaction = MS_PQ - the mean completion noise of a cell. An estimate below 0 becomes
    0, and `notes` says so. With a single completion in a cell, noise and interaction cannot be
    separated: `completion` is None, and the interaction includes both.

    Raises UserError for missing cells and for fewer than two personas or questions.
    """
    d_PQ = paired.d_PQ
    if d_PQ is None:
        raise UserError.one(
            "components.missing_cells",
            PLACE,
            f"{paired.missing} of the persona-by-question cells are missing in a condition",
            "leave out the personas or questions concerned: variance components need every cell",
        )
    personas, questions = d_PQ.shape
    if min(d_PQ.shape) < 2:
        raise UserError.one(
            "components.too_few",
            PLACE,
            f"{personas} x {questions} cells have no variance components",
            "2 personas and 2 questions",
        )
    by_persona, by_question = d_PQ.mean(axis=1), d_PQ.mean(axis=0)
    residual_PQ = d_PQ - by_persona[:, None] - by_question[None, :] + d_PQ.mean()
    ms_persona = questions * float(by_persona.var(ddof=1))
    ms_question = personas * float(by_question.var(ddof=1))
    ms_cell = float((residual_PQ**2).sum()) / ((personas - 1) * (questions - 1))
    completion, noise = _completion_noise(paired)
    raw = {
        "persona": (ms_persona - ms_cell) / questions,
        "question": (ms_question - ms_cell) / personas,
        "interaction": ms_cell - noise,
    }
    kept, notes = _truncated(raw)
    if completion is None:
        notes += (
            "a cell has a single completion: noise and interaction cannot be separated, the interaction includes both",
        )
    return Components(**kept, completion=completion, notes=notes)


def with_seed(components: Components, runs: Sequence[PairedCells]) -> Components:
    """Add the variance between training runs, from the same cells counted in each of several runs.

    seed = the variance of the runs' mean differences minus the completion noise of one run. A negative value becomes 0,
    and `notes` says so. Personas and questions are assumed to respond alike in all runs.

    Raises UserError for fewer than two runs.
    """
    if len(runs) < 2:
        raise UserError.one(
            "components.too_few_seeds", "seeds", f"{len(runs)} training run has no variance between runs", "two or more"
        )
    means = [float(run.differences.mean()) for run in runs]
    noise = np.mean([components.noise / _completions(run) / len(run.differences) for run in runs])
    kept, notes = _truncated({"seed": float(np.var(means, ddof=1) - noise)})
    return replace(components, seed=kept["seed"], notes=components.notes + notes)


def _completions(paired: PairedCells) -> float:
    """Completions per cell and condition: the harmonic mean, because noise is inversely proportional."""
    totals = np.concatenate([paired.total_treated, paired.total_control])
    return float(1 / np.mean(1 / totals))


def _truncated(raw: dict[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    below = [name for name, value in raw.items() if value < 0]
    notes = tuple(f"the {name} variance was estimated as {raw[name]:.2g} and set to 0" for name in below)
    return {name: max(0.0, value) for name, value in raw.items()}, notes


def _completion_noise(paired: PairedCells) -> tuple[float | None, float]:
    """Mean of p (1 - p), summed over conditions, and the mean share of it left in an observed cell.

    h (K - h) / (K (K - 1)) is unbiased for p (1 - p), and needs K >= 2.
    """
    sides = ((paired.hits_treated, paired.total_treated), (paired.hits_control, paired.total_control))
    if min(int(total.min()) for _, total in sides) < 2:
        return None, 0.0
    single, left = 0.0, 0.0
    for hits, total in sides:
        variance: Array = hits * (total - hits) / (total * (total - 1))
        single += float(variance.mean())
        left += float((variance / total).mean())
    return single, left
