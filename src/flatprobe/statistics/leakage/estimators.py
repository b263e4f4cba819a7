"""The leakage difference by every estimator, each with its scope.

D_pq = treated rate - control rate on the same (persona, question) cell. The estimate is always the mean of D, with
equal weights for cells, whatever their numbers of completions. Estimators differ only in what they take as random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import ROUNDING, Array
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import Options, Spread, by_t, join_notes
from flatprobe.statistics.leakage import crossed
from flatprobe.statistics.leakage.cells import PairedCells, pair_cells
from flatprobe.statistics.leakage.resampling import cell_bootstrap, completion_resampling, question_bootstrap_t
from flatprobe.statistics.leakage.sign_flip import persona_sign_flip

SCOPES = {
    "completion_resampling": "these cells, these checkpoints",
    "cell_bootstrap": "new independent (persona, question) cells, these checkpoints",
    "question_t": "new questions, these personas, these checkpoints",
    "question_bootstrap_t": "new questions, these personas, these checkpoints",
    "persona_t": "new personas, these questions, these checkpoints",
    "persona_sign_flip": "new personas, these questions, these checkpoints",
    "crossed_anova": "new personas and questions, these checkpoints",
    "two_way_cluster_t": "new personas and questions, these checkpoints",
    "pigeonhole_t": "new personas and questions, these checkpoints",
}
"""Estimator to scope, in the order in which the estimates are returned."""

CONTAMINATED = "contaminated: the pool holds personas that were trained on"


def leakage_contrast(
    cells: pl.DataFrame,
    treated: str,
    control: str,
    personas: Sequence[str],
    *,
    pool: str,
    resamples: int,
    seed: int,
    level: float,
    contaminated: bool = False,
    margin: float | None = None,
    equivalence_margin: float | None = None,
) -> list[Estimate]:
    """Estimate the leakage difference `treated - control` over a pool of personas.

    `cells` has columns condition, persona, question_id, hits, total, one row per cell in any order. Further columns and
    other conditions are ignored. Otherwise as `contrast_cells`. Raises UserError for whatever `pair_cells` refuses.
    """
    Options(resamples, level, margin, equivalence_margin)  # fails before the counts are read
    estimates = contrast_cells(
        pair_cells(cells, treated, control, personas),
        resamples=resamples,
        seed=seed,
        level=level,
        margin=margin,
        equivalence_margin=equivalence_margin,
        treated=treated,
        control=control,
        pool=pool,
    )
    if not contaminated:
        return estimates
    return [
        replace(estimate, contaminated=True, note=join_notes(CONTAMINATED, estimate.note)) for estimate in estimates
    ]


def contrast_cells(
    paired: PairedCells,
    *,
    resamples: int,
    seed: int,
    level: float,
    estimators: Sequence[str] | None = None,
    margin: float | None = None,
    equivalence_margin: float | None = None,
    treated: str = "treated",
    control: str = "control",
    pool: str = "pool",
) -> list[Estimate]:
    """Estimate the leakage difference of paired cells, as a difference of rates (0.15 is 15 pp).

    Returns one Estimate per name in `SCOPES` (or in `estimators`), in the order of `SCOPES`. The draws of one estimator
    do not depend on the others requested. With `margin`, each also tests H0: difference <= margin; with
    `equivalence_margin`, H0: |difference| >= that margin. Cells may have different numbers of completions. Missing
    cells are left out and counted in the note; `crossed_anova` needs a complete table. An estimator that the design
    does not support has no numbers, and its note gives the reason. Raises UserError for invalid options and for an
    unknown estimator.
    """
    options = Options(resamples, level, margin, equivalence_margin)
    names = _names(estimators)
    if seed < 0:
        raise UserError.one("options.seed", "seed", f"{seed} is negative", "give 0 or more")
    d_PQ, n_PQ = paired.table()
    blank = Estimate(
        quantity="leakage_difference",
        contrast=f"{treated} - {control}",
        treated=treated,
        control=control,
        pool=pool,
        estimator="",
        scope="",
        n_personas=d_PQ.shape[0],
        n_questions=d_PQ.shape[1],
        note=missing_note(paired.missing, len(paired.personas) * len(paired.questions)),
    )
    streams = dict(zip(SCOPES, np.random.SeedSequence(seed).spawn(len(SCOPES)), strict=True))
    return [
        _estimate(
            replace(blank, estimator=name, scope=SCOPES[name]),
            paired, d_PQ, n_PQ, options, np.random.default_rng(streams[name]),
        )
        for name in names
    ]  # fmt: skip


def missing_note(missing: int, size: int) -> str | None:
    """A note on cells that one or both conditions lack; None if no cell is missing."""
    return f"left out, missing in a condition: {missing} of {size} cells" if missing else None


def _names(estimators: Sequence[str] | None) -> list[str]:
    unknown = [name for name in estimators or () if name not in SCOPES]
    if unknown:
        raise UserError.one(
            "options.estimator", "estimators", f"{', '.join(unknown)}: unknown", f"known: {', '.join(SCOPES)}"
        )
    return [name for name in SCOPES if estimators is None or name in estimators]


def _estimate(
    blank: Estimate,
    paired: PairedCells,
    d_PQ: Array,
    n_PQ: Array | None,
    options: Options,
    generator: np.random.Generator,
) -> Estimate:
    refusal = _refusal(blank.estimator, d_PQ, n_PQ)
    if refusal:
        return replace(blank, note=join_notes(blank.note, refusal))
    if blank.estimator in ("completion_resampling", "cell_bootstrap", "persona_sign_flip"):
        blank = replace(blank, note=join_notes(blank.note, _constant(paired.differences)))
    match blank.estimator:
        case "completion_resampling":
            return completion_resampling(blank, paired, options, generator)
        case "cell_bootstrap":
            return cell_bootstrap(blank, paired, options, generator)
        case "question_bootstrap_t":
            return question_bootstrap_t(blank, d_PQ, n_PQ, options, generator)
        case "persona_sign_flip":
            return persona_sign_flip(blank, d_PQ, n_PQ, options, generator)
        case "pigeonhole_t":
            return _pigeonhole(blank, d_PQ, n_PQ, options, generator)
        case "question_t":
            spread = crossed.one_way_cluster(d_PQ, n_PQ, axis=1)
        case "persona_t":
            spread = crossed.one_way_cluster(d_PQ, n_PQ, axis=0)
        case "two_way_cluster_t":
            spread = crossed.two_way_cluster(d_PQ, n_PQ)
        case _:
            spread = crossed.crossed_anova(d_PQ)
    return by_t(blank, crossed.cell_mean(d_PQ, n_PQ), spread, options)


def _refusal(name: str, d_PQ: Array, n_PQ: Array | None) -> str | None:
    """Why the design does not support an estimator; None if it does."""
    if name in ("completion_resampling", "cell_bootstrap"):
        return None
    personas, questions = d_PQ.shape
    if name not in ("question_t", "question_bootstrap_t") and personas < 2:
        return "not estimated: one persona has no variation between personas"
    if name not in ("persona_t", "persona_sign_flip") and questions < 2:
        return "not estimated: one question has no variation between questions"
    if name == "crossed_anova" and n_PQ is not None:
        return "not estimated: its mean squares and Satterthwaite's df need every cell of the table"
    return None


def _constant(differences: Array) -> str | None:
    """A note that all differences are equal; None if they vary."""
    if float(np.ptp(differences)) > ROUNDING:
        return None
    return f"no variation: every paired difference is {100 * float(differences[0]):+.1f} pp"


def _pigeonhole(
    blank: Estimate, d_PQ: Array, n_PQ: Array | None, options: Options, generator: np.random.Generator
) -> Estimate:
    """Standard error from resampled personas and questions, with a t of min(P, Q) - 1 df."""
    draws = crossed.pigeonhole_draws(d_PQ, options.resamples, generator, n_PQ)
    undefined = int(np.isnan(draws).sum())
    if undefined or options.resamples < 2:
        reason = f"{undefined} resamples hold no cell" if undefined else "one resample has no spread"
        return replace(blank, note=join_notes(blank.note, f"not estimated: {reason}"))
    mean = crossed.cell_mean(d_PQ, n_PQ)
    spread = Spread(float(draws.std(ddof=1)), float(min(d_PQ.shape) - 1))
    estimate = by_t(blank, mean, spread, options)
    return replace(estimate, resamples=options.resamples, bootstrap_bias=float(draws.mean() - mean))
