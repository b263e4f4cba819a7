"""The leakage difference at every lambda, its p adjusted for the choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.bootstrap import ROUNDING
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import join_notes
from flatprobe.statistics.leakage.cells import PairedCells
from flatprobe.statistics.leakage.estimators import contrast_cells
from flatprobe.statistics.leakage.resampling import cell_draws
from flatprobe.statistics.multiplicity import holm, max_t


def leakage_over_lambdas(
    cells_by_lambda: Mapping[float, PairedCells],
    *,
    resamples: int,
    seed: int,
    level: float,
    method: Literal["max-T", "Holm"] = "max-T",
    treated: str = "treated",
    control: str = "control",
    pool: str = "pool",
) -> list[Estimate]:
    """The registered `cell_bootstrap` at every lambda, its p adjusted for the choice among them.

    max-T resamples the same cells at every lambda, so all lambdas need the same personas, questions and cells. Holm
    does not. A lambda whose cells do not vary has no adjusted p and does not count in the family. Raises UserError if
    there is no lambda, or if the cells differ under max-T.
    """
    if not cells_by_lambda:
        raise UserError.one("lambda.none", "lambda", "there is no lambda to adjust over")
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
    adjusted_by_index = dict(zip(varying, adjusted, strict=True))
    return [
        replace(estimate, adjusted_p=adjusted_by_index[index], family=family)
        if index in adjusted_by_index
        else replace(estimate, note=join_notes(estimate.note, "not in the family of lambdas"))
        for index, estimate in enumerate(estimates)
    ]


def _check_same_cells(cells_by_lambda: Mapping[float, PairedCells]) -> None:
    first, *others = cells_by_lambda.items()
    problems = [
        Problem(
            "lambda.different_cells",
            f"lambda {value}",
            f"its cells are not those of lambda {first[0]}",
            "adjust by Holm, which needs no joint draws",
        )
        for value, paired in others
        if paired.layout != first[1].layout
    ]
    if problems:
        raise UserError(problems)
