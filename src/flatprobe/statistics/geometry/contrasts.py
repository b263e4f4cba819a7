"""The geometric contrast of two conditions: every measure, per layer and over layers, with its inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.grams import PARTS, PairGrams, pair_grams
from flatprobe.statistics.geometry.inference import inferences, with_max_t
from flatprobe.statistics.geometry.measures import NEEDS
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.statistics.geometry.values import Values, measure_values
from flatprobe.statistics.inference import Options


@dataclass(frozen=True, kw_only=True)
class GeometryOptions:
    """How geometric contrasts are estimated and named. Raises UserError for values out of range."""

    kind: StateKind
    """Where the states were read; estimates carry its position and responses."""
    pool: str
    """Name of the set of bystanders; estimates carry it."""
    resamples: int
    """Bootstrap draws of the questions, at least 1."""
    seed: int
    level: float
    """Confidence level of the two-sided intervals, in (0, 1)."""
    measures: tuple[str, ...] | None = None
    """Names from `MEASURES`; None for all."""

    def __post_init__(self) -> None:
        Options(resamples=self.resamples, level=self.level)  # checks both


def geometry_contrasts(
    states: Mapping[str, States],
    pairs: Sequence[tuple[str, str]],
    source: str,
    bystanders: Sequence[str],
    options: GeometryOptions,
) -> list[Estimate]:
    """Estimate the geometric measures of every (treated, control) pair of conditions, from their states.

    Args:
        states: condition name to its `States`, all of one kind, with the same questions, layers and hidden size.
        pairs: (treated, control) keys of `states`.
        source, bystanders: personas of the states; a measure compares the source with the bystanders.
        options: see `GeometryOptions`.

    Returns estimates as `gram_contrasts`. Raises UserError for a condition or persona without states and for conditions
    that do not fit each other.
    """
    measures = options.measures
    parts = PARTS if measures is None else {NEEDS[name] for name in measures if name in NEEDS}
    return gram_contrasts(pair_grams(states, pairs, source, bystanders, parts), options)


def gram_contrasts(grams: Sequence[PairGrams], options: GeometryOptions) -> list[Estimate]:
    """Estimate the geometric measures of every pair of conditions, from their Gram matrices.

    Estimates come per layer and over layers (layer None, the mean over layers), each by the three estimators of
    `inferences`: `question_bootstrap`, `question_jackknife_t` and `persona_jackknife_t`. The bootstrap's rows per layer
    also carry `adjusted_p` (max-T over the layers, from joint draws).

    Units: cosines in cosine units; `contraction` is -log of the scatter ratio (positive = flatter); ratios are treated
    over control, with null 1 and a geometric mean over layers. A measure is undefined where a squared distance, norm or
    variance is not positive: its numbers are None with the reason in `note`, and so is its mean over layers.

    Raises UserError for an unknown measure, no pair, and pairs on different questions.
    """
    by_pair = measure_values(grams, resamples=options.resamples, seed=options.seed, measures=options.measures)
    estimates: list[Estimate] = []
    for pair, by_measure in zip(grams, by_pair, strict=True):
        blank = blank_estimate(pair, options.kind, options.pool)
        for name, values in by_measure.items():
            estimates += _of_measure(replace(blank, quantity=name), pair.control.layers, values, options.level)
    return estimates


def blank_estimate(pair: PairGrams, kind: StateKind, pool: str) -> Estimate:
    """An estimate of the pair without numbers; quantity, estimator and scope are still empty."""
    treated, control = pair.treated.condition, pair.control.condition
    return Estimate(
        quantity="",
        contrast=f"{treated} - {control}",
        treated=treated,
        control=control,
        pool=pool,
        estimator="",
        scope="",
        position=kind.position,
        responses=kind.responses,
        n_personas=len(pair.control.personas) - 1,
        n_questions=len(pair.control.questions),
    )


def _of_measure(blank: Estimate, layers: Sequence[int], values: Values, level: float) -> list[Estimate]:
    """One measure's estimates, per layer in the order of `layers` and then over them."""
    by_layer = [values.at(index) for index in range(len(layers))]
    rows = [
        inferences(replace(blank, layer=layer), value, level) for layer, value in zip(layers, by_layer, strict=True)
    ]
    bootstrap = with_max_t([row[0] for row in rows], by_layer, "layers")
    estimates = [estimate for first, row in zip(bootstrap, rows, strict=True) for estimate in (first, *row[1:])]
    return estimates + inferences(blank, values.over_layers(), level)
