"""The leakage difference by every estimator, each with the population that its p-value speaks about.

D_pq = treated rate - control rate on the same (persona, question) cell; the estimate is always mean D. The
estimators differ in what they take as random, and only in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from flatprobe.errors import UserError
from flatprobe.statistics import crossed
from flatprobe.statistics.bootstrap import Array, multinomial_weights, percentile_summary, two_sided_p
from flatprobe.statistics.estimands import Estimate
from flatprobe.statistics.paired import PairedCells, pair_cells

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

EXACT_PERSONAS = 16
"""Up to this many personas all 2^n sign patterns are enumerated; beyond it they are drawn."""


def leakage_contrast(
    cells: pl.DataFrame,
    treated: str,
    control: str,
    personas: Sequence[str],
    *,
    pool: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
    contaminated: bool = False,
) -> list[Estimate]:
    """Estimate the leakage difference `treated - control` over a pool of personas.

    `cells` has columns condition, persona, question_id, hits, total (one row per cell; further columns and
    other conditions are ignored). Returns one Estimate per name in `SCOPES`, as a difference of rates (0.15
    is 15 pp). An estimator that the design does not support (missing cells, one persona, one question) comes
    back with None numbers and the reason. Raises UserError for duplicates, impossible counts and an empty
    pool.
    """
    if resamples < 1 or not 0 < level < 1:
        raise UserError.one(
            "bootstrap", f"{resamples} resamples at level {level}", "at least 1, level in (0, 1)"
        )
    paired = pair_cells(cells, treated, control, personas)
    d_PQ = paired.d_PQ
    streams = np.random.default_rng(seed).spawn(4)
    blank = Estimate(
        quantity="leakage_difference",
        contrast=f"{treated} - {control}",
        treated=treated,
        control=control,
        pool=f"{pool} (contaminated)" if contaminated else pool,
        estimator="",
        scope="",
        n_personas=len(paired.personas),
        n_questions=len(paired.questions),
        note="contaminated: the pool holds personas that were trained on" if contaminated else None,
    )
    blanks = {name: replace(blank, estimator=name, scope=scope) for name, scope in SCOPES.items()}
    numbers = [
        _completion_resampling(blanks["completion_resampling"], paired, resamples, streams[0], level),
        _cell_bootstrap(blanks["cell_bootstrap"], paired, resamples, streams[1], level),
    ]
    for name in list(SCOPES)[2:]:
        blocked = _unsupported(name, paired)
        if d_PQ is None or blocked:
            numbers.append(_noted(blanks[name], blocked))
        elif name == "question_bootstrap_t":
            numbers.append(_bootstrap_t(blanks[name], d_PQ.mean(axis=0), resamples, streams[2], level))
        elif name == "persona_sign_flip":
            numbers.append(_sign_flip(blanks[name], d_PQ.mean(axis=1), resamples, streams[3]))
        else:
            numbers.append(_by_t(blanks[name], d_PQ, resamples, streams[3], level))
    return numbers


def _unsupported(name: str, paired: PairedCells) -> str | None:
    """Why the design does not support an estimator; None where it does."""
    if paired.missing:
        return f"not estimated: {paired.missing} of the persona-by-question cells are missing in a condition"
    needs_personas = name not in ("question_t", "question_bootstrap_t")
    needs_questions = name not in ("persona_t", "persona_sign_flip")
    if needs_personas and len(paired.personas) < 2:
        return "not estimated: one persona has no variation between personas"
    if needs_questions and len(paired.questions) < 2:
        return "not estimated: one question has no variation between questions"
    return None


def _noted(estimate: Estimate, *notes: str | None) -> Estimate:
    return replace(estimate, note="; ".join(note for note in (estimate.note, *notes) if note) or None)


def _by_t(
    blank: Estimate, d_PQ: Array, resamples: int, generator: np.random.Generator, level: float
) -> Estimate:
    """The estimators that are a standard error with a t distribution."""
    mean = float(d_PQ.mean())
    bias, draws_used = None, None
    if blank.estimator == "question_t":
        spread = crossed.one_way(d_PQ.mean(axis=0))
    elif blank.estimator == "persona_t":
        spread = crossed.one_way(d_PQ.mean(axis=1))
    elif blank.estimator == "crossed_anova":
        spread = crossed.crossed_anova(d_PQ)
    elif blank.estimator == "two_way_cluster_t":
        spread = crossed.two_way_cluster(d_PQ)
    else:
        draws = crossed.pigeonhole_draws(d_PQ, resamples, generator)
        spread = crossed.Spread(
            float(draws.std(ddof=1)) if resamples > 1 else 0.0, float(min(d_PQ.shape) - 1)
        )
        bias, draws_used = float(draws.mean() - mean), resamples
    inference = crossed.t_inference(mean, spread, level)
    return replace(
        _noted(blank, inference.note),
        estimate=mean,
        standard_error=spread.standard_error,
        ci_low=inference.ci_low,
        ci_high=inference.ci_high,
        p_value=inference.p_value,
        df=spread.df,
        resamples=draws_used,
        bootstrap_bias=bias,
    )


def _by_percentile(blank: Estimate, paired: PairedCells, draws: Array, level: float) -> Estimate:
    mean = float(paired.differences.mean())
    summary = percentile_summary(draws, mean, level)
    left_out = f"{paired.missing} cells are missing in a condition and left out" if paired.missing else None
    outside = None
    if summary.low is not None and summary.high is not None:
        outside = not summary.low <= mean <= summary.high
    return replace(
        _noted(blank, left_out),
        estimate=mean,
        standard_error=summary.standard_error,
        ci_low=summary.low,
        ci_high=summary.high,
        p_value=summary.p_value,
        smallest_attainable_p=min(1.0, 2 / (len(draws) + 1)),
        resamples=len(draws),
        bootstrap_bias=summary.bias,
        outside_own_interval=outside,
    )


def _completion_resampling(
    blank: Estimate, paired: PairedCells, resamples: int, generator: np.random.Generator, level: float
) -> Estimate:
    """Redraw each cell's completions: binomial noise only.

    Cells with equal counts have the same binomial, and a sum of m such cells is one binomial of m times the
    size: drawing per distinct count is exact and needs a few dozen draws per resample instead of hundreds.
    """
    draws = np.zeros(resamples)
    sides = (
        (1.0, paired.hits_treated, paired.total_treated),
        (-1.0, paired.hits_control, paired.total_control),
    )
    for sign, hits, totals in sides:
        kinds, counts = np.unique(np.stack([hits, totals], axis=1), axis=0, return_counts=True)
        for (hit, total), count in zip(kinds.tolist(), counts.tolist(), strict=True):
            draws += sign * generator.binomial(total * count, hit / total, size=resamples) / total
    return _by_percentile(blank, paired, draws / len(paired.hits_treated), level)


def _cell_bootstrap(
    blank: Estimate, paired: PairedCells, resamples: int, generator: np.random.Generator, level: float
) -> Estimate:
    """The registered rule: resample cells, keeping the two conditions' counts of a cell together."""
    differences = paired.differences
    blocks = [w @ differences for w in multinomial_weights(len(differences), resamples, generator)]
    return _by_percentile(blank, paired, np.concatenate(blocks) / len(differences), level)


def _bootstrap_t(
    blank: Estimate, means: Array, resamples: int, generator: np.random.Generator, level: float
) -> Estimate:
    """Centred, studentised bootstrap of unit means: equal-tailed interval, p with the null imposed."""
    count, mean, spread = len(means), float(means.mean()), crossed.one_way(means)
    if spread.standard_error <= crossed.ZERO:
        note = "no variation: neither interval nor p-value exists"
        return replace(_noted(blank, note), estimate=mean, standard_error=spread.standard_error)
    centred = means - mean
    w_RQ = np.concatenate(list(multinomial_weights(count, resamples, generator)))
    shift = w_RQ @ centred / count
    variance = np.maximum(w_RQ @ centred**2 / count - shift**2, 0.0) / (count - 1)
    error = np.sqrt(variance)
    # A resample of one question only has no spread: its t is infinite, which is what it should count as.
    infinite = np.where(np.abs(shift) <= crossed.ZERO, 0.0, np.copysign(np.inf, shift))
    t = np.divide(shift, error, out=infinite, where=error > crossed.ZERO)
    lower, upper = (
        np.quantile(t, (1 - level) / 2, method="lower"),
        np.quantile(t, (1 + level) / 2, method="higher"),
    )
    finite = bool(np.isfinite(lower) and np.isfinite(upper))
    return replace(
        _noted(blank, None if finite else "no finite interval: too few distinct questions"),
        estimate=mean,
        standard_error=spread.standard_error,
        ci_low=mean - float(upper) * spread.standard_error if finite else None,
        ci_high=mean - float(lower) * spread.standard_error if finite else None,
        p_value=two_sided_p(t, null=mean / spread.standard_error),
        smallest_attainable_p=min(1.0, 2 / (resamples + 1)),
        resamples=resamples,
    )


def _sign_flip(blank: Estimate, means: Array, resamples: int, generator: np.random.Generator) -> Estimate:
    """Randomisation test of symmetric persona effects; the observed signs are one of the patterns."""
    count, mean = len(means), float(means.mean())
    exact = count <= EXACT_PERSONAS
    if exact:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        bits = generator.integers(0, 2, size=(resamples, count))
    flipped = np.abs((2.0 * bits - 1.0) @ means / count)
    extreme = int(np.sum(flipped >= abs(mean) - crossed.ZERO))
    draws = len(bits)
    return replace(
        _noted(blank, "a test without an interval", None if exact else f"{draws} sign patterns were drawn"),
        estimate=mean,
        p_value=extreme / draws if exact else (1 + extreme) / (draws + 1),
        smallest_attainable_p=2 / draws if exact else 1 / (draws + 1),
        resamples=draws,
    )
