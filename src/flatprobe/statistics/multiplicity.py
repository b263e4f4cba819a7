"""Several tests at once: Holm, single-step max-T, and the intersection-union test of a conjunction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import ROUNDING, Array
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.cells import PairedCells
from flatprobe.statistics.leakage.crossed import join_notes
from flatprobe.statistics.leakage.estimators import contrast_cells
from flatprobe.statistics.leakage.resampling import cell_draws


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise UserError.one("multiplicity.TODO", "p_values", f"{p_value} is not a probability")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def conjunction_p(p_values: Sequence[float | None]) -> float | None:
    """p of the intersection-union test that all hold: the largest (Berger 1982); None if any is unknown."""
    known = [p_value for p_value in p_values if p_value is not None]
    if len(known) < len(p_values) or not known:
        return None
    return max(known)


def max_t(estimates_K: Array, draws_RK: Array, names: Sequence[str] | None = None) -> Array:
    """Two-sided p-values (K,) of K statistics, adjusted for being looked at together.

    Single-step max-T (Westfall and Young 1993): the draws are joint (one row is one resample), centred at the
    estimates, which imposes the null, and studentised by their own standard deviation; p_k = (1 + #{max over
    all statistics of |t*| >= |t_k|}) / (R + 1), never 0. A resample on which a statistic is undefined (NaN)
    counts against all. Raises UserError that names (by `names`, else by position) statistics that do not vary.
    """
    if draws_RK.ndim != 2 or len(draws_RK) < 2 or draws_RK.shape[1:] != np.shape(estimates_K):
        raise ValueError(f"draws {draws_RK.shape} do not fit estimates {np.shape(estimates_K)}")
    undefined = np.isnan(draws_RK)
    scale_K = np.array([column[~skip].std(ddof=1) if (~skip).sum() > 1 else 0.0
                        for column, skip in zip(draws_RK.T, undefined.T, strict=True)])  # fmt: skip
    problems = [
        Problem(
            "multiplicity.TODO",
            f"max-T: {name}",
            "does not vary over the resamples",
            "leave it out of the family",
        )
        for name, scale in zip(names or range(len(scale_K)), scale_K, strict=True)
        if not scale > ROUNDING
    ]
    if problems:
        raise UserError(problems)
    t_K = np.abs(estimates_K) / scale_K
    largest_R = np.where(undefined, np.inf, np.abs(draws_RK - estimates_K) / scale_K).max(axis=1)
    reached_K = (largest_R[:, None] >= t_K - ROUNDING).sum(axis=0)
    adjusted: Array = (1.0 + reached_K) / (len(draws_RK) + 1)
    return adjusted


def leakage_over_lambdas(
    cells_by_lambda: Mapping[float, PairedCells],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
    method: Literal["max-T", "Holm"] = "max-T",
    treated: str = "treated",
    control: str = "control",
    pool: str = "pool",
) -> list[Estimate]:
    """The registered `cell_bootstrap` at every lambda, its p adjusted for the choice among them.

    max-T draws the same cells at every lambda, so it needs the same personas, questions and cells everywhere;
    Holm needs nothing. A lambda whose cells do not vary has no adjusted p and is not counted in the family.
    Raises UserError when there is no lambda, or when the cells differ under max-T.
    """
    if not cells_by_lambda:
        raise UserError.one("multiplicity.TODO", "lambda", "there is no lambda to adjust over")
    estimates = [
        replace(estimate, lambda_=value)
        for value, paired in cells_by_lambda.items()
        for estimate in contrast_cells(
            paired, resamples=resamples, seed=seed, level=level, estimators=["cell_bootstrap"],
            treated=treated, control=control, pool=pool,
        )
    ]  # fmt: skip
    if method == "max-T":
        _check_same_cells(cells_by_lambda)
    d_CK = [paired.differences for paired in cells_by_lambda.values()]
    varying = [index for index, d_C in enumerate(d_CK) if np.ptp(d_C) > ROUNDING]
    adjusted: Sequence[float] = []
    if varying and method == "max-T":
        means_K = np.array([d_CK[index].mean() for index in varying])
        joint_CK = np.stack([d_CK[index] for index in varying], axis=1)
        adjusted = max_t(means_K, cell_draws(joint_CK, resamples, np.random.default_rng(seed))).tolist()
    elif varying:
        adjusted = holm([p for index in varying if (p := estimates[index].p_value) is not None])
    family = f"{method} over {len(varying)} lambda{'s' if len(varying) != 1 else ''}"
    found = dict(zip(varying, adjusted, strict=True))
    return [
        replace(estimate, adjusted_p=found[index], family=family)
        if index in found
        else replace(estimate, note=join_notes(estimate.note, "not in the family of lambdas"))
        for index, estimate in enumerate(estimates)
    ]


def _check_same_cells(cells_by_lambda: Mapping[float, PairedCells]) -> None:
    first, *others = cells_by_lambda.items()
    problems = [
        Problem(
            "multiplicity.TODO",
            f"lambda {value}",
            f"its cells are not those of lambda {first[0]}",
            "adjust by Holm, which needs no joint draws",
        )
        for value, paired in others
        if paired.layout != first[1].layout
    ]
    if problems:
        raise UserError(problems)
