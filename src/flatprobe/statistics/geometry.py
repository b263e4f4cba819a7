"""The geometric contrast of two conditions: every measure, per layer and over layers, with joint question
resamples.

The same question draws serve every persona, condition, layer and measure, so differences of measures are
paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flatprobe.errors import UserError
from flatprobe.statistics import measures
from flatprobe.statistics.bootstrap import Array, multinomial_weights, percentile_summary
from flatprobe.statistics.crossed import Spread, one_way, t_inference
from flatprobe.statistics.estimands import Estimate
from flatprobe.statistics.gram import persona_gram, products
from flatprobe.statistics.states import States, check_comparable, check_personas

SCOPE = "new questions, these personas, these checkpoints"
PERSONA_SCOPE = "new personas, these questions, these checkpoints"


def geometry_contrast(
    treated: States,
    control: States,
    source: str,
    bystanders: Sequence[str],
    *,
    position: str,
    responses: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
    pool: str = "bystanders",
) -> list[Estimate]:
    """Estimate every measure of `measures.compare`, per layer and over the layers (layer None: their mean).

    Each comes twice: `question_bootstrap` (percentile interval, registered p, bias, flag for an estimate
    outside its own interval) and `question_jackknife_t` (Q - 1 df). `cosine_difference` comes a third time as
    `persona_t`, whose scope is new personas. Cosines are in cosine units, `contraction` is -log of the
    scatter ratio (positive = flatter), ratios are treated / control with null 1 and a geometric mean over
    layers. An undefined measure (non-positive squared distance, norm or variance) has None numbers and the
    reason, and makes its mean over layers None too.
    """
    check_comparable(treated, control)
    personas = check_personas(treated, source, bystanders)
    check_personas(control, source, bystanders)
    if resamples < 1 or not 0 < level < 1:
        raise UserError.one(
            "bootstrap", f"{resamples} resamples at level {level}", "at least 1, level in (0, 1)"
        )
    questions = len(treated.questions)
    w_BQ = _weights(questions, resamples, seed)
    layers = [_layer(treated, control, layer, personas, w_BQ) for layer in treated.layers]
    blank = Estimate(
        quantity="",
        contrast=f"{treated.condition} - {control.condition}",
        treated=treated.condition,
        control=control.condition,
        pool=pool,
        estimator="",
        scope=SCOPE,
        n_personas=len(bystanders),
        n_questions=questions,
        position=position,
        responses=responses,
    )
    estimates = []
    for name in layers[0]:
        values_LB = np.stack([values[name] for values in layers])
        for layer, values_B in (*zip(treated.layers, values_LB, strict=True), (None, values_LB.mean(axis=0))):
            named = replace(blank, quantity=name, layer=layer)
            estimates += _estimates(named, values_B, questions, level)
    return estimates + _persona_estimates(blank, treated, control, personas, level)


def _weights(questions: int, resamples: int, seed: int) -> Array:
    """Question weights: 1 row of ones (the estimate), Q with one question left out, then the resamples."""
    generator = np.random.default_rng(seed)
    leave_one_out = 1.0 - np.eye(questions)
    return np.concatenate(
        [np.ones((1, questions)), leave_one_out, *multinomial_weights(questions, resamples, generator)]
    )


def _layer(
    treated: States, control: States, layer: int, personas: tuple[str, ...], w_BQ: Array
) -> dict[str, Array]:
    h_treated, h_control = treated.layer(layer, personas), control.layer(layer, personas)
    gram_control, move_QD = persona_gram(h_control), (h_treated - h_control).mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # undefined is NaN here, and a reason at the border
        summary = products(gram_control, w_BQ)
        translated_B = measures.translated_cosine(gram_control, h_control, move_QD, summary, w_BQ)
        return measures.compare(products(persona_gram(h_treated), w_BQ), summary, translated_B)


def _estimates(blank: Estimate, values_B: Array, questions: int, level: float) -> list[Estimate]:
    """Bootstrap and jackknife of one measure; `values_B` in the order of `_weights`."""
    bootstrap = replace(blank, estimator="question_bootstrap")
    jackknife = replace(blank, estimator="question_jackknife_t", df=float(questions - 1))
    value, left_out, draws = float(values_B[0]), values_B[1 : 1 + questions], values_B[1 + questions :]
    if np.isnan(value):
        where = "in a layer" if blank.layer is None else "in this layer"
        note = f"undefined: a squared distance, norm or variance is not positive {where}"
        return [replace(bootstrap, note=note), replace(jackknife, note=note, df=None)]
    return [
        _reported(_bootstrap(bootstrap, value, draws, questions, level)),
        _reported(_jackknife(jackknife, value, left_out, level)),
    ]


def _bootstrap(blank: Estimate, value: float, draws: Array, questions: int, level: float) -> Estimate:
    if questions < 2:
        return replace(blank, estimate=value, note="one question has no variation between questions")
    summary = percentile_summary(draws, value, level)
    outside = None
    if summary.low is not None and summary.high is not None:
        outside = not summary.low - 1e-12 <= value <= summary.high + 1e-12
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


def _jackknife(blank: Estimate, value: float, left_out: Array, level: float) -> Estimate:
    count = len(left_out)
    if count < 2 or np.isnan(left_out).any():
        note = "no standard error: undefined when a question is left out"
        return replace(blank, estimate=value, df=None, note=note)
    error = float(((left_out - left_out.mean()) ** 2).sum() * (count - 1) / count) ** 0.5
    return _with_t(blank, value, Spread(error, count - 1.0), level)


def _with_t(blank: Estimate, value: float, spread: Spread, level: float) -> Estimate:
    inference = t_inference(value, spread, level)
    return replace(
        blank,
        estimate=value,
        standard_error=spread.standard_error,
        ci_low=inference.ci_low,
        ci_high=inference.ci_high,
        p_value=inference.p_value,
        df=spread.df,
        note=inference.note,
    )


def _reported(estimate: Estimate) -> Estimate:
    """Ratios are computed as logs and reported as ratios; their standard error and bias stay logs."""
    if estimate.quantity not in measures.RATIOS:
        return estimate
    ends = (estimate.estimate, estimate.ci_low, estimate.ci_high)
    value, low, high = (None if end is None else float(np.exp(end)) for end in ends)
    notes = (estimate.note, "ratio treated / control: null 1, standard error and bias of its log")
    note = "; ".join(part for part in notes if part)
    return replace(estimate, estimate=value, ci_low=low, ci_high=high, note=note)


def _persona_estimates(
    blank: Estimate, treated: States, control: States, personas: tuple[str, ...], level: float
) -> list[Estimate]:
    """The cosine difference with bystanders as the random factor: t over their own differences."""
    ones = np.ones((1, len(treated.questions)))
    layers: tuple[int | None, ...] = (*treated.layers, None)
    cosines_LP = np.stack(
        [
            measures.bystander_cosines(products(treated.gram(layer, personas), ones).full_BPP)[0]
            - measures.bystander_cosines(products(control.gram(layer, personas), ones).full_BPP)[0]
            for layer in treated.layers
        ]
    )
    estimates = []
    for layer, cosines_P in zip(layers, (*cosines_LP, cosines_LP.mean(axis=0)), strict=True):
        named = replace(
            blank, quantity="cosine_difference", layer=layer, estimator="persona_t", scope=PERSONA_SCOPE
        )
        if np.isnan(cosines_P).any():
            estimates.append(replace(named, note="undefined: a centroid's norm is zero"))
        elif len(cosines_P) < 2:
            note = "one bystander has no variation between personas"
            estimates.append(replace(named, estimate=float(cosines_P.mean()), note=note))
        else:
            estimates.append(_with_t(named, float(cosines_P.mean()), one_way(cosines_P), level))
    return estimates
