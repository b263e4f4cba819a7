"""Estimates of one geometric measure from its values: bootstrap, jackknives and max-T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flatprobe.statistics.bootstrap import ROUNDING, Array, percentile_summary
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.measures import RATIOS
from flatprobe.statistics.geometry.values import Values
from flatprobe.statistics.inference import Spread, join_notes, t_inference
from flatprobe.statistics.multiplicity import max_t

QUESTION_SCOPE = "new questions, these personas, these checkpoints"
PERSONA_SCOPE = "new personas, these questions, these checkpoints"


def inferences(blank: Estimate, values: Values, level: float) -> list[Estimate]:
    """The three estimates of one measure at one layer, named as `blank`.

    - `question_bootstrap`: percentile interval, registered p, bias, flag for an estimate outside its own interval
    - `question_jackknife_t`: Q - 1 df
    - `persona_jackknife_t`: bystanders left out one at a time, N - 1 df; the source always stays. For the cosine
      difference it equals the t test over the bystanders' own differences.
    """
    value = float(values.estimate_L[0])
    by_question = replace(blank, estimator="question_jackknife_t", scope=QUESTION_SCOPE)
    by_persona = replace(blank, estimator="persona_jackknife_t", scope=PERSONA_SCOPE)
    bootstrap = replace(blank, estimator="question_bootstrap", scope=QUESTION_SCOPE)
    if np.isnan(value):
        where = "in a layer" if blank.layer is None else "in this layer"
        note = f"undefined: a squared distance, norm or variance is not positive {where}"
        return [replace(estimate, note=note) for estimate in (bootstrap, by_question, by_persona)]
    return [
        _reported(_bootstrap(bootstrap, value, values, level)),
        _reported(_jackknife(by_question, value, values.without_question_LQ[0], "question", level)),
        _reported(_jackknife(by_persona, value, values.without_persona_LN[0], "bystander", level)),
    ]


def _bootstrap(blank: Estimate, value: float, values: Values, level: float) -> Estimate:
    if values.without_question_LQ.shape[1] < 2:
        return replace(blank, estimate=value, note="one question has no variation between questions")
    draws = values.draws_LR[0]
    summary = percentile_summary(draws, value, level)
    outside = None
    if summary.low is not None and summary.high is not None:
        outside = not summary.low - ROUNDING <= value <= summary.high + ROUNDING
    return replace(
        blank,
        estimate=value,
        standard_error=summary.standard_error,
        ci_low=summary.low,
        ci_high=summary.high,
        p_value=summary.p_value,
        smallest_attainable_p=min(1.0, 2 / (len(draws) + 1)),
        resamples=len(draws),
        bootstrap_bias=summary.bias,
        outside_own_interval=outside,
        note=f"undefined on {summary.undefined} resamples, counted against it" if summary.undefined else None,
    )


def _jackknife(blank: Estimate, value: float, left_out: Array, unit: str, level: float) -> Estimate:
    """SE^2 = (n - 1)/n sum (value without i - their mean)^2, t with n - 1 df (Tukey 1958)."""
    count = len(left_out)
    if count < 2:
        return replace(blank, estimate=value, note=f"one {unit} has no variation between {unit}s")
    if np.isnan(left_out).any():
        return replace(blank, estimate=value, note=f"no standard error: undefined when a {unit} is left out")
    error = float(((left_out - left_out.mean()) ** 2).sum() * (count - 1) / count) ** 0.5
    inference = t_inference(value, Spread(error, count - 1.0), level)
    return replace(
        blank,
        estimate=value,
        standard_error=error,
        ci_low=inference.ci_low,
        ci_high=inference.ci_high,
        p_value=inference.p_value,
        df=count - 1.0,
        note=inference.note,
    )


def _reported(estimate: Estimate) -> Estimate:
    """The estimate as reported: ratios are exponentiated, while their standard error and bias stay on the log scale."""
    if estimate.quantity not in RATIOS:
        return estimate
    ends = (estimate.estimate, estimate.ci_low, estimate.ci_high)
    value, low, high = (None if end is None else float(np.exp(end)) for end in ends)
    note = join_notes(estimate.note, "ratio treated / control: null 1, standard error and bias of its log")
    return replace(estimate, estimate=value, ci_low=low, ci_high=high, note=note)


def with_max_t(estimates: Sequence[Estimate], values: Sequence[Values], units: str) -> list[Estimate]:
    """The estimates with p-values adjusted for the choice among them (max-T), from their joint draws.

    `values` holds one single-layer `Values` per estimate, on the same resamples. An estimate that is undefined or does
    not vary is left out of the family, and its note says so. Fewer than two estimates are returned unchanged. `units`
    names the members in the plural: `layers`.
    """
    members = [index for index, value in enumerate(values) if _varies(value)]
    if len(values) < 2:
        return list(estimates)
    adjusted: dict[int, float] = {}
    if members:
        observed = np.array([values[index].estimate_L[0] for index in members])
        joint = np.stack([values[index].draws_LR[0] for index in members], axis=1)
        adjusted = dict(zip(members, max_t(observed, joint).tolist(), strict=True))
    name = f"max-T over {len(members)} {units if len(members) != 1 else units.removesuffix('s')}"
    return [
        replace(estimate, adjusted_p=adjusted[index], family=name)
        if index in adjusted
        else replace(estimate, note=join_notes(estimate.note, "not in the family of adjusted p-values"))
        for index, estimate in enumerate(estimates)
    ]


def _varies(values: Values) -> bool:
    """Whether the measure is defined and its draws differ by more than rounding."""
    draws = values.draws_LR[0]
    defined = draws[~np.isnan(draws)]
    several = values.without_question_LQ.shape[1] > 1 and len(defined) > 1
    return bool(several and not np.isnan(values.estimate_L[0]) and defined.std(ddof=1) > ROUNDING)
