"""The geometric contrast of two conditions: every measure, per layer and over layers, with its inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flatprobe.errors import UserError
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.grams import PARTS, PairGrams, pair_grams
from flatprobe.statistics.geometry.inference import inferences, with_max_t
from flatprobe.statistics.geometry.measures import NEEDS
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.geometry.values import Values, measure_values
from flatprobe.study.panel import PRIMARY_POOL


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
    pool: str = PRIMARY_POOL,
    measures: Sequence[str] | None = None,
) -> list[Estimate]:
    """Estimate the measures of `treated - control`; as `geometry_contrasts`, for one pair of states."""
    return geometry_contrasts(
        {"treated": treated, "control": control}, [("treated", "control")], source, bystanders,
        position=position, responses=responses, resamples=resamples, seed=seed, level=level, pool=pool,
        measures=measures,
    )  # fmt: skip


def geometry_contrasts(
    states: Mapping[str, States],
    pairs: Sequence[tuple[str, str]],
    source: str,
    bystanders: Sequence[str],
    *,
    position: str,
    responses: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
    pool: str = PRIMARY_POOL,
    measures: Sequence[str] | None = None,
) -> list[Estimate]:
    """Estimate the measures of every (treated, control) pair of keys of `states`, as `gram_contrasts`.

    What pairs share is computed once. Raises UserError for a persona without states and for a pair on different
    questions, layers or hidden sizes.
    """
    parts = PARTS if measures is None else {NEEDS[name] for name in measures if name in NEEDS}
    grams = pair_grams(states, pairs, source, bystanders, parts)
    return gram_contrasts(
        grams, position=position, responses=responses, resamples=resamples, seed=seed, level=level, pool=pool,
        measures=measures,
    )  # fmt: skip


def gram_contrast(
    grams: PairGrams,
    *,
    position: str,
    responses: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
    pool: str = PRIMARY_POOL,
    measures: Sequence[str] | None = None,
) -> list[Estimate]:
    """As `gram_contrasts`, for the stored Gram matrices of one pair."""
    return gram_contrasts(
        [grams], position=position, responses=responses, resamples=resamples, seed=seed, level=level, pool=pool,
        measures=measures,
    )  # fmt: skip


def gram_contrasts(
    grams: Sequence[PairGrams],
    *,
    position: str,
    responses: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
    pool: str = PRIMARY_POOL,
    measures: Sequence[str] | None = None,
) -> list[Estimate]:
    """Estimate the measures named (default: all of `MEASURES`) of every pair, per layer and over layers.

    The aggregate (layer None) is the mean over layers. Each comes three times, as `inferences` says:
    `question_bootstrap`, `question_jackknife_t` and `persona_jackknife_t`. The bootstrap's rows per layer also
    bear `adjusted_p` (max-T over the layers, from joint draws). Cosines are in cosine units, `contraction` is
    -log of the scatter ratio (positive = flatter), ratios are treated / control with null 1 and a geometric mean
    over layers. An undefined measure (non-positive squared distance, norm or variance) has None numbers and the
    reason, and makes its mean over layers None too. Raises UserError for an unknown measure, fewer than one
    resample and a level outside (0, 1).
    """
    if resamples < 1 or not 0 < level < 1:
        raise UserError.one(
            "contrasts.TODO",
            "bootstrap",
            f"{resamples} resamples at level {level}",
            "at least 1, level in (0, 1)",
        )
    estimates = []
    for pair, found in zip(
        grams, measure_values(grams, resamples=resamples, seed=seed, measures=measures), strict=True
    ):
        named = replace(named_after(pair), pool=pool, position=position, responses=responses)
        for name, values in found.items():
            estimates += _of_measure(replace(named, quantity=name), pair.control.layers, values, level)
    return estimates


def named_after(pair: PairGrams) -> Estimate:
    """An estimate without numbers that bears the pair's names and sizes; its scope is still empty."""
    treated, control = pair.treated.condition, pair.control.condition
    return Estimate(
        quantity="",
        contrast=f"{treated} - {control}",
        treated=treated,
        control=control,
        pool="",
        estimator="",
        scope="",
        n_personas=len(pair.control.personas) - 1,
        n_questions=len(pair.control.questions),
    )


def _of_measure(blank: Estimate, layers: Sequence[int], values: Values, level: float) -> list[Estimate]:
    """One measure's estimates, per layer in the order of `layers` and then over them."""
    by_layer = [values.at(index) for index in range(len(layers))]
    rows = [
        inferences(replace(blank, layer=layer), value, level)
        for layer, value in zip(layers, by_layer, strict=True)
    ]
    bootstrap = with_max_t([row[0] for row in rows], by_layer, "layers")
    estimates = [
        estimate for first, row in zip(bootstrap, rows, strict=True) for estimate in (first, *row[1:])
    ]
    return estimates + inferences(blank, values.over_layers(), level)
