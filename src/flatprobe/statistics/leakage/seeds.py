"""Training runs as a random factor: the leakage difference over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import Options, Spread, by_t, join_notes, one_way
from flatprobe.statistics.leakage.cells import PLACE, PairedCells, pair_cells
from flatprobe.statistics.leakage.crossed import satterthwaite
from flatprobe.statistics.leakage.estimators import CONTAMINATED, missing_note

SEED_SCOPES = {
    "seed_t": "new training runs, these personas and questions",
    "crossed_anova_seed": "new personas, questions and training runs",
}
"""Estimator to scope, in the order in which the estimates are returned."""

MINIMUM_SEEDS = 3
"""Fewer training runs do not estimate the variance between runs."""


def seed_contrast(
    cells: pl.DataFrame,
    treated: str,
    control: str,
    personas: Sequence[str],
    *,
    pool: str,
    level: float,
    contaminated: bool = False,
    margin: float | None = None,
    equivalence_margin: float | None = None,
) -> list[Estimate]:
    """Estimate the leakage difference `treated - control` with training seeds as a random factor.

    `cells` has the columns of `leakage_contrast` and `seed`; the two conditions are paired within a seed. Returns
    one Estimate per name in `SEED_SCOPES`, as a difference of rates; with fewer than 3 seeds both have None
    numbers, and the scope stays these checkpoints. Raises UserError for what `pair_by_seed` refuses.
    """
    options = Options(1, level, margin, equivalence_margin)
    paired = pair_by_seed(cells, treated, control, personas)
    missing = sum(one.missing for one in paired.values())
    size = sum(len(one.personas) * len(one.questions) for one in paired.values())
    blank = Estimate(
        quantity="leakage_difference",
        contrast=f"{treated} - {control}",
        treated=treated,
        control=control,
        pool=pool,
        contaminated=contaminated,
        estimator="",
        scope="",
        n_personas=len(personas),
        n_questions=max(one.table()[0].shape[1] for one in paired.values()),
        note=join_notes(CONTAMINATED if contaminated else None, missing_note(missing, size)),
    )
    blanks = [replace(blank, estimator=name, scope=scope) for name, scope in SEED_SCOPES.items()]
    if len(paired) < MINIMUM_SEEDS:
        note = join_notes(blank.note, f"needs at least {MINIMUM_SEEDS} seeds: these checkpoints")
        return [replace(row, note=note) for row in blanks]
    means_S = np.array([one.differences.mean() for one in paired.values()])
    by_seed = by_t(blanks[0], float(means_S.mean()), one_way(means_S), options)
    d_SPQ = _complete(paired)
    if isinstance(d_SPQ, str):
        return [by_seed, replace(blanks[1], note=join_notes(blank.note, f"not estimated: {d_SPQ}"))]
    return [by_seed, by_t(blanks[1], float(d_SPQ.mean()), crossed_anova_seed(d_SPQ), options)]


def pair_by_seed(cells: pl.DataFrame, treated: str, control: str, personas: Sequence[str]) -> dict[int, PairedCells]:
    """`pair_cells` of each seed, in ascending order.

    Raises UserError for an absent or empty `seed`, for seeds that only one condition has, and for whatever
    `pair_cells` refuses.
    """
    if "seed" not in cells.columns:
        raise UserError.one("cells.missing_column", PLACE, "column seed is missing")
    if not cells.schema["seed"].is_integer():
        raise UserError.one(
            "cells.column_type", PLACE, f"the column seed holds {cells.schema['seed']} instead of whole numbers"
        )
    used = cells.filter(pl.col("condition").is_in([treated, control]), pl.col("persona").is_in(list(personas)))
    if used["seed"].null_count():
        raise UserError.one(
            "cells.missing_key", PLACE, f"{used['seed'].null_count()} rows without a seed", "fill in or remove them"
        )
    if used.is_empty():
        pair_cells(cells, treated, control, personas)  # raises with what is missing
    seeds = [set(used.filter(pl.col("condition") == name)["seed"]) for name in (treated, control)]
    alone = sorted(seeds[0] ^ seeds[1])
    if alone:
        message = f"seed{'s' if len(alone) > 1 else ''} {', '.join(map(str, alone))} only in one condition"
        raise UserError.one("cells.unshared_seed", PLACE, message, "compare seeds that both conditions have")
    return {
        int(seed): pair_cells(cells.filter(pl.col("seed") == seed), treated, control, personas)
        for seed in sorted(seeds[0])
    }


def over_seeds(cells: pl.DataFrame, treated: str, control: str, personas: Sequence[str]) -> pl.DataFrame:
    """Sum hits and totals over seeds, after checking each seed's counts.

    Cells without a `seed` column, or with one seed, are returned unchanged.
    """
    if "seed" not in cells.columns or cells["seed"].n_unique() < 2:
        return cells
    pair_by_seed(cells, treated, control, personas)
    return cells.group_by(["condition", "persona", "question_id"], maintain_order=True).agg(
        pl.col("hits").sum(), pl.col("total").sum()
    )


def crossed_anova_seed(d_SPQ: Array) -> Spread:
    """Standard error of the mean of a complete seed x persona x question table, all three factors random.

    Var = (MS_S + MS_P + MS_Q - MS_SP - MS_SQ - MS_PQ + MS_SPQ) / (SPQ), Satterthwaite df. Where that is not
    a usable variance (see `satterthwaite`), the largest one-way variance is used and the note says so.
    """
    squares, df = _mean_squares(d_SPQ)
    signs = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0])
    spread = satterthwaite(squares, signs, df, d_SPQ.size)
    if spread is not None:
        return spread
    by_factor = {
        factor: one_way(d_SPQ.mean(axis=others))
        for factor, others in (("seed", (1, 2)), ("persona", (0, 2)), ("question", (0, 1)))
    }
    factor, largest = max(by_factor.items(), key=lambda item: item[1].standard_error)
    note = f"the three-way variance is not safely positive; the largest one-way variance ({factor}) is used"
    return replace(largest, note=note)


def _mean_squares(d_SPQ: Array) -> tuple[Array, Array]:
    """Mean squares and their df: three main effects, three two-way interactions, the three-way one."""
    grand = d_SPQ.mean()
    main = [d_SPQ.mean(axis=others, keepdims=True) - grand for others in ((1, 2), (0, 2), (0, 1))]
    pairs = [
        d_SPQ.mean(axis=2, keepdims=True) - grand - main[0] - main[1],
        d_SPQ.mean(axis=1, keepdims=True) - grand - main[0] - main[2],
        d_SPQ.mean(axis=0, keepdims=True) - grand - main[1] - main[2],
    ]
    effects = [*main, *pairs, d_SPQ - grand - sum(main) - sum(pairs)]
    s, p, q = (size - 1 for size in d_SPQ.shape)
    df = np.array([s, p, q, s * p, s * q, p * q, s * p * q], dtype=np.float64)
    sums = np.array([float((effect**2).sum()) * d_SPQ.size / effect.size for effect in effects])
    return sums / df, df


def _complete(paired: Mapping[int, PairedCells]) -> Array | str:
    """The differences as one seed x persona x question table, or the reason why there is none."""
    ones = list(paired.values())
    if any(one.missing for one in ones) or len({one.questions for one in ones}) > 1:
        return "it needs every cell in every seed"
    if min(len(ones[0].personas), len(ones[0].questions)) < 2:
        return "it needs at least 2 personas and 2 questions"
    shape = len(ones), len(ones[0].personas), len(ones[0].questions)
    return np.stack([one.differences for one in ones]).reshape(shape)
