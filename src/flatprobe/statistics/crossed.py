"""Standard errors of the mean of a balanced persona-by-question table.

Each function takes d_PQ, one difference per cell, and returns the standard error of its mean with degrees of
freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from flatprobe.statistics.bootstrap import Array, multinomial_weights

ZERO = 1e-12
"""Standard errors of rates below this are rounding, not variation."""


@dataclass(frozen=True)
class Spread:
    """A standard error, the degrees of freedom of its t distribution, and what had to be done to get it."""

    standard_error: float
    df: float
    note: str | None = None


@dataclass(frozen=True)
class TInference:
    """Two-sided t inference; all None, with the reason, where nothing varies."""

    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    note: str | None


def t_inference(estimate: float, spread: Spread, level: float) -> TInference:
    """Interval and p-value of `estimate` against 0; a zero standard error supports neither."""
    if spread.standard_error <= ZERO:
        return TInference(
            None, None, None, _join(spread.note, "no variation: neither interval nor p-value exists")
        )
    half = float(stats.t.ppf((1 + level) / 2, spread.df)) * spread.standard_error
    p_value = 2 * float(stats.t.sf(abs(estimate) / spread.standard_error, spread.df))
    return TInference(estimate - half, estimate + half, p_value, spread.note)


def one_way(means: Array) -> Spread:
    """Standard error of the mean of independent unit means (n,), with n - 1 df."""
    return Spread(float(means.std(ddof=1)) / len(means) ** 0.5, float(len(means) - 1))


def crossed_anova(d_PQ: Array) -> Spread:
    """Random personas and random questions: Var = (MS_P + MS_Q - MS_PQ) / (PQ), Satterthwaite df.

    Satterthwaite (1946), Biometrics Bulletin 2(6). Where the variance comes out at or below 0, the larger
    one-way variance is used, and the note says so.
    """
    personas, questions = d_PQ.shape
    mean, by_persona, by_question = d_PQ.mean(), d_PQ.mean(axis=1), d_PQ.mean(axis=0)
    residual_PQ = d_PQ - by_persona[:, None] - by_question[None, :] + mean
    df_persona, df_question = personas - 1, questions - 1
    df_residual = df_persona * df_question
    ms_persona = questions * by_persona.var(ddof=1)
    ms_question = personas * by_question.var(ddof=1)
    ms_residual = (residual_PQ**2).sum() / df_residual
    combined = float(ms_persona + ms_question - ms_residual)
    variance = combined / d_PQ.size
    if variance <= ZERO**2:
        return _larger_one_way(d_PQ)
    squares = ms_persona**2 / df_persona + ms_question**2 / df_question + ms_residual**2 / df_residual
    return Spread(variance**0.5, combined**2 / float(squares))


def two_way_cluster(d_PQ: Array) -> Spread:
    """Two-way cluster-robust variance V_P + V_Q - V_PQ, each with its factor G / (G - 1); df = min(P, Q) - 1.

    Cameron, Gelbach and Miller (2011), JBES 29(2). Falls back to the larger one-way variance where it is not
    positive.
    """
    residual_PQ = d_PQ - d_PQ.mean()
    sums = (residual_PQ.sum(axis=1), residual_PQ.sum(axis=0), residual_PQ.ravel())
    parts = [float((part**2).sum()) * len(part) / (len(part) - 1) / d_PQ.size**2 for part in sums]
    variance = parts[0] + parts[1] - parts[2]
    if variance <= ZERO**2:
        return _larger_one_way(d_PQ)
    return Spread(variance**0.5, float(min(d_PQ.shape) - 1))


def pigeonhole_draws(d_PQ: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Means (R,) of tables with personas and questions resampled independently (Owen 2007, AOAS 1(2))."""
    personas, questions = d_PQ.shape
    w_RP = np.concatenate(list(multinomial_weights(personas, resamples, generator)))
    w_RQ = np.concatenate(list(multinomial_weights(questions, resamples, generator)))
    draws: Array = ((w_RP @ d_PQ) * w_RQ).sum(axis=1) / d_PQ.size
    return draws


def _larger_one_way(d_PQ: Array) -> Spread:
    by_factor = {"persona": one_way(d_PQ.mean(axis=1)), "question": one_way(d_PQ.mean(axis=0))}
    factor, spread = max(by_factor.items(), key=lambda item: item[1].standard_error)
    note = f"the two-way variance is not positive: the larger one-way variance ({factor}) is used"
    return Spread(spread.standard_error, spread.df, note)


def _join(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None
