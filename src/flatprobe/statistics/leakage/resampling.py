"""Leakage estimators by resampling completions, cells or questions.

Each fills in an estimate that has only its names. Draws are made in chunks, so memory grows by one value per
resample only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flatprobe.statistics.bootstrap import (
    ROUNDING,
    Array,
    equivalence_p,
    multinomial_weights,
    one_sided_p,
    percentile_summary,
    two_sided_p,
)
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import ZERO, Options, join_notes
from flatprobe.statistics.leakage import crossed
from flatprobe.statistics.leakage.cells import PairedCells


def completion_resampling(
    blank: Estimate, paired: PairedCells, options: Options, generator: np.random.Generator
) -> Estimate:
    """Redraw each cell's completions: binomial noise only.

    The sum over m cells with equal counts is one binomial of m times the size. Drawing per distinct count is therefore
    exact, with a few dozen draws per resample instead of hundreds.
    """
    sides = ((1.0, paired.hits_treated, paired.total_treated), (-1.0, paired.hits_control, paired.total_control))
    draws, varies = np.zeros(options.resamples), False
    for sign, hits, totals in sides:
        kinds, counts = np.unique(np.stack([hits, totals], axis=1), axis=0, return_counts=True)
        for (hit, total), count in zip(kinds.tolist(), counts.tolist(), strict=True):
            varies = varies or 0 < hit < total
            draws += sign * generator.binomial(total * count, hit / total, size=options.resamples) / total
    fixed = None if varies else "no variation: in every cell, all completions have the marker or none has"
    note = join_notes(blank.note, fixed)
    return _by_percentile(replace(blank, note=note), paired, draws / len(paired.hits_treated), options)


def cell_bootstrap(blank: Estimate, paired: PairedCells, options: Options, generator: np.random.Generator) -> Estimate:
    """The registered estimator: resample cells, keeping both conditions' counts of a cell together."""
    draws = cell_draws(paired.differences[:, None], options.resamples, generator)[:, 0]
    return _by_percentile(blank, paired, draws, options)


def cell_draws(d_CK: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Means (R, K) of resampled cells, for K tables resampled with the same draws."""
    blocks = [w_RC @ d_CK for w_RC in multinomial_weights(len(d_CK), resamples, generator)]
    return np.concatenate(blocks) / len(d_CK)


def _by_percentile(blank: Estimate, paired: PairedCells, draws: Array, options: Options) -> Estimate:
    mean = float(paired.differences.mean())
    summary = percentile_summary(draws, mean, options.level)
    outside = None
    if summary.low is not None and summary.high is not None:
        outside = not summary.low - ROUNDING <= mean <= summary.high + ROUNDING
    margin, equivalence = options.margin, options.equivalence_margin
    return replace(
        blank,
        estimate=mean,
        standard_error=summary.standard_error,
        ci_low=summary.low,
        ci_high=summary.high,
        p_value=summary.p_value,
        smallest_attainable_p=min(1.0, 2 / (len(draws) + 1)),
        resamples=len(draws),
        bootstrap_bias=summary.bias,
        outside_own_interval=outside,
        margin=margin,
        superiority_p=None if margin is None else one_sided_p(draws, margin),
        equivalence_margin=equivalence,
        equivalence_p=None if equivalence is None else equivalence_p(draws, equivalence),
    )


def question_bootstrap_t(
    blank: Estimate, d_PQ: Array, n_PQ: Array | None, options: Options, generator: np.random.Generator
) -> Estimate:
    """Studentised bootstrap over questions: equal-tailed interval, p with the null imposed.

    The statistic is the cell mean over its cluster-robust standard error, recomputed on each resample. With missing
    cells, both are ratios of weighted sums over questions.
    """
    mean, spread = crossed.cell_mean(d_PQ, n_PQ), crossed.one_way_cluster(d_PQ, n_PQ, axis=1)
    if spread.standard_error <= ZERO:
        note = join_notes(blank.note, "no variation: neither interval nor p-value exists")
        return replace(blank, estimate=mean, standard_error=spread.standard_error, note=note)
    cells_Q = np.full(d_PQ.shape[1], float(len(d_PQ))) if n_PQ is None else n_PQ.sum(axis=0)
    t = _studentised(d_PQ.sum(axis=0) - mean * cells_Q, cells_Q, spread.standard_error, options, generator)
    lower = float(np.quantile(t, (1 - options.level) / 2, method="lower"))
    upper = float(np.quantile(t, (1 + options.level) / 2, method="higher"))
    finite = bool(np.isfinite(lower) and np.isfinite(upper))
    error, margin, equivalence = spread.standard_error, options.margin, options.equivalence_margin

    def above(null: float) -> float:
        """p of H0: difference <= null."""
        return one_sided_p(-t, (null - mean) / error)

    def below(null: float) -> float:
        """p of H0: difference >= null."""
        return one_sided_p(t, (mean - null) / error)

    return replace(
        blank,
        estimate=mean,
        standard_error=error,
        ci_low=mean - upper * error if finite else None,
        ci_high=mean - lower * error if finite else None,
        p_value=two_sided_p(t, null=mean / error),
        smallest_attainable_p=min(1.0, 2 / (options.resamples + 1)),
        resamples=options.resamples,
        margin=margin,
        superiority_p=None if margin is None else above(margin),
        equivalence_margin=equivalence,
        equivalence_p=None if equivalence is None else max(above(-equivalence), below(equivalence)),
        note=join_notes(blank.note, None if finite else "no finite interval: too few distinct questions"),
    )


def _studentised(
    centred_Q: Array, cells_Q: Array, error: float, options: Options, generator: np.random.Generator
) -> Array:
    """Resampled t (R,) of a ratio of sums over questions, centred at 0."""
    questions = len(centred_Q)
    blocks = []
    for w_RQ in multinomial_weights(questions, options.resamples, generator):
        cells = w_RQ @ cells_Q
        shift = w_RQ @ centred_Q / cells
        squares = w_RQ @ centred_Q**2 - 2 * shift * (w_RQ @ (centred_Q * cells_Q)) + shift**2 * (w_RQ @ cells_Q**2)
        errors = np.sqrt(np.maximum(squares, 0.0) * questions / (questions - 1)) / cells
        # A resample of a single question has no spread, so its t counts as infinite.
        infinite = np.where(np.abs(shift) <= ZERO, 0.0, np.copysign(np.inf, shift))
        blocks.append(np.divide(shift, errors, out=infinite, where=errors > crossed.CANCELLED**0.5 * error))
    return np.concatenate(blocks)
