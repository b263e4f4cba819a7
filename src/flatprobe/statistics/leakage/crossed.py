"""Standard errors of the mean of a persona-by-question table.

d_PQ holds one difference per cell. An incomplete table comes with n_PQ: 1 where the cell exists, 0 where it is
missing (d_PQ is 0 there). No persona or question may be missing entirely. Means are over existing cells. Without
n_PQ the table is complete.
"""

from __future__ import annotations

import numpy as np

from flatprobe.statistics.bootstrap import Array, chunk_sizes, draw_weights
from flatprobe.statistics.inference import Spread

CANCELLED = 1e-9
"""A difference of variances this small relative to its terms is rounding error."""


def cell_mean(d_PQ: Array, n_PQ: Array | None = None) -> float:
    """Mean over existing cells, with equal weights."""
    return float(d_PQ.mean() if n_PQ is None else d_PQ.sum() / n_PQ.sum())


def one_way_cluster(d_PQ: Array, n_PQ: Array | None = None, *, axis: int) -> Spread:
    """Cluster-robust standard error of the cell mean: G/(G-1) sum over groups of (sum of residuals)^2 / N^2.

    Groups are personas (`axis=0`) or questions (`axis=1`); G - 1 df. On a complete table it is the standard
    error of the mean of the group means (`one_way`).
    """
    residual_PQ = _residuals(d_PQ, n_PQ)
    sums = residual_PQ.sum(axis=1 - axis)
    return Spread(_cluster_variance(sums, _cells(d_PQ, n_PQ)) ** 0.5, float(len(sums) - 1))


def two_way_cluster(d_PQ: Array, n_PQ: Array | None = None) -> Spread:
    """Two-way cluster-robust variance V_P + V_Q - V_PQ, each term with its factor G / (G - 1); df = min(P, Q) - 1.

    Cameron, Gelbach and Miller (2011), JBES 29(2). Where it is not positive, the larger
    one-way variance is used.
    """
    residual_PQ, cells = _residuals(d_PQ, n_PQ), _cells(d_PQ, n_PQ)
    present = residual_PQ.ravel() if n_PQ is None else residual_PQ[n_PQ > 0]
    parts = [_cluster_variance(sums, cells) for sums in (residual_PQ.sum(axis=1), residual_PQ.sum(axis=0), present)]
    variance = parts[0] + parts[1] - parts[2]
    if variance <= CANCELLED * sum(parts):
        return _larger_one_way(d_PQ, n_PQ)
    return Spread(variance**0.5, float(min(d_PQ.shape) - 1))


def crossed_anova(d_PQ: Array) -> Spread:
    """Random personas and random questions: Var = (MS_P + MS_Q - MS_PQ) / (PQ), Satterthwaite df.

    Satterthwaite (1946), Biometrics Bulletin 2(6). Needs a complete table: otherwise the mean squares are dependent
    and have other expectations. Where the variance is not positive, or leaves less than one degree of freedom, the
    larger one-way variance is used and the note says so.
    """
    personas, questions = d_PQ.shape
    mean, by_persona, by_question = d_PQ.mean(), d_PQ.mean(axis=1), d_PQ.mean(axis=0)
    residual_PQ = d_PQ - by_persona[:, None] - by_question[None, :] + mean
    df_persona, df_question = personas - 1, questions - 1
    df_residual = df_persona * df_question
    ms_persona = float(questions * by_persona.var(ddof=1))
    ms_question = float(personas * by_question.var(ddof=1))
    ms_residual = float((residual_PQ**2).sum()) / df_residual
    squares = np.array([ms_persona, ms_question, ms_residual])
    spread = satterthwaite(
        squares, np.array([1.0, 1.0, -1.0]), np.array([df_persona, df_question, df_residual]), d_PQ.size
    )
    return spread or _larger_one_way(d_PQ)


def satterthwaite(squares: Array, signs: Array, df: Array, cells: int) -> Spread | None:
    """Standard error from a signed sum of mean squares over `cells`; None where the sum is not a usable variance.

    It is not usable where it is not positive, or where it leaves less than one degree of freedom: t quantiles are
    then useless (at .1 df, the 97.5 % quantile is about 1e12).
    """
    combined = float(signs @ squares)
    if combined <= CANCELLED * float(squares.sum()):
        return None
    combined_df = combined**2 / float((squares**2 / df).sum())
    return Spread((combined / cells) ** 0.5, combined_df) if combined_df >= 1 else None


def pigeonhole_draws(d_PQ: Array, resamples: int, generator: np.random.Generator, n_PQ: Array | None = None) -> Array:
    """Means (R,) of tables with personas and questions resampled independently (Owen 2007, AOAS 1(2)).

    With missing cells, a ratio of weighted sums; NaN for a draw without any cell.
    """
    personas, questions = d_PQ.shape
    draws = []
    for size in chunk_sizes(personas + questions, resamples):
        w_RP = draw_weights(personas, size, generator)
        w_RQ = draw_weights(questions, size, generator)
        sums = ((w_RP @ d_PQ) * w_RQ).sum(axis=1)
        weights = np.full(size, float(d_PQ.size)) if n_PQ is None else ((w_RP @ n_PQ) * w_RQ).sum(axis=1)
        draws.append(np.divide(sums, weights, out=np.full(size, np.nan), where=weights > 0))
    return np.concatenate(draws)


def _residuals(d_PQ: Array, n_PQ: Array | None) -> Array:
    residual_PQ: Array = d_PQ - cell_mean(d_PQ, n_PQ)
    return residual_PQ if n_PQ is None else residual_PQ * n_PQ


def _cells(d_PQ: Array, n_PQ: Array | None) -> float:
    return float(d_PQ.size if n_PQ is None else n_PQ.sum())


def _cluster_variance(sums: Array, cells: float) -> float:
    return float((sums**2).sum()) * len(sums) / (len(sums) - 1) / cells**2


def _larger_one_way(d_PQ: Array, n_PQ: Array | None = None) -> Spread:
    by_factor = {"persona": one_way_cluster(d_PQ, n_PQ, axis=0), "question": one_way_cluster(d_PQ, n_PQ, axis=1)}
    factor, spread = max(by_factor.items(), key=lambda item: item[1].standard_error)
    note = f"the two-way variance is not safely positive; the larger one-way variance ({factor}) is used"
    return Spread(spread.standard_error, spread.df, note)
