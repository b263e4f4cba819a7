"""Values of the geometric measures: on all data, with one question or persona left out, and on resamples.

All personas, conditions, layers and measures share the question draws. So differences of measures are paired, and draws
of several layers, contrasts and positions are joint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array, multinomial_weights
from flatprobe.statistics.geometry.grams import ConditionGrams, PairGrams, Part
from flatprobe.statistics.geometry.kernels import QuestionWeights
from flatprobe.statistics.geometry.measures import MEASURES, NEEDS, PairKernels, PairProducts
from flatprobe.statistics.geometry.products import Products

BLOCK_VALUES = 250_000
"""Products of question weights held at once: 2 MB, small enough for a core's cache."""
_HAS: dict[Part, Callable[[PairGrams], bool]] = {
    "moves": lambda pair: pair.onto_move_LPQPQ is not None,
    "trimmed": lambda pair: pair.trimmed_treated_LPQPQ is not None and pair.trimmed_control_LPQPQ is not None,
}


@dataclass(frozen=True, eq=False)
class Values:
    """One measure of one contrast, on the scale of `MEASURES`; NaN where undefined."""

    estimate_L: Array
    without_question_LQ: Array
    """One column per question left out; no column with a single question."""
    without_persona_LN: Array
    """One column per bystander left out; no column with a single bystander."""
    draws_LR: Array

    def over_layers(self) -> Values:
        """The mean over layers, as one layer; NaN where one layer is NaN."""
        means = (
            values.mean(axis=0, keepdims=True)
            for values in (self.estimate_L, self.without_question_LQ, self.without_persona_LN, self.draws_LR)
        )
        return Values(*means)

    def at(self, index: int) -> Values:
        """One layer."""
        rows = slice(index, index + 1)
        return Values(
            self.estimate_L[rows], self.without_question_LQ[rows], self.without_persona_LN[rows], self.draws_LR[rows]
        )


def measure_values(
    pairs: Sequence[PairGrams], *, resamples: int, seed: int, measures: Sequence[str] | None = None
) -> list[dict[str, Values]]:
    """Values of these measures (default: all of `MEASURES`) for every pair, in the order given.

    `resamples` may be 0. The products of a condition are computed once for all pairs that share its `ConditionGrams`.
    Raises UserError for an unknown measure, no pair, pairs on different questions, and Gram matrices without a part
    that a measure reads.
    """
    names = tuple(MEASURES if measures is None else measures)
    _check(pairs, names)
    questions, start = len(pairs[0].control.questions), 0
    width = len(_leave_one_out(questions)) + resamples
    kernels_of = [PairKernels.of(pair) for pair in pairs]
    arrays_of = [{name: np.empty((len(pair.control.layers), width)) for name in names} for pair in pairs]
    for w_BQ in _blocks(questions, resamples, seed):
        weights, block = QuestionWeights.of(w_BQ), slice(start, start + len(w_BQ))
        by_condition: dict[ConditionGrams, Products] = {}
        for pair, kernels, arrays in zip(pairs, kernels_of, arrays_of, strict=True):
            for grams, condition in ((pair.treated, kernels.treated), (pair.control, kernels.control)):
                by_condition.setdefault(grams, Products(condition, weights))
            products = PairProducts(kernels, by_condition[pair.treated], by_condition[pair.control], weights)
            for name in names:
                arrays[name][:, block] = MEASURES[name](products)
        start = block.stop
    return [_values(arrays, kernels, questions) for arrays, kernels in zip(arrays_of, kernels_of, strict=True)]


def _check(pairs: Sequence[PairGrams], names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise UserError.one(
            "geometry.measure",
            "measures",
            f"unknown: {', '.join(unknown)}" if unknown else "none is given",
            f"choose from {', '.join(MEASURES)}",
        )
    lacking = {name: NEEDS[name] for name in names if name in NEEDS and not all(map(_HAS[NEEDS[name]], pairs))}
    if lacking:
        named = ", ".join(f"{name} ({part})" for name, part in lacking.items())
        raise UserError.one(
            "grams.part_missing",
            "measures",
            f"the Gram matrices lack the parts of {named}",
            "compute them with all parts",
        )
    if not pairs or len({pair.control.questions for pair in pairs}) != 1:
        raise UserError.one(
            "geometry.contrasts",
            "contrasts",
            "there is none, or their questions differ",
            "use the same questions in all conditions",
        )


def _values(arrays: dict[str, Array], kernels: PairKernels, questions: int) -> dict[str, Values]:
    without_persona = _without_personas(kernels, questions, tuple(arrays))
    first_draw = len(_leave_one_out(questions))
    return {
        name: Values(values[:, 0], values[:, 1:first_draw], without_persona[name], values[:, first_draw:])
        for name, values in arrays.items()
    }


def _leave_one_out(questions: int) -> Array:
    """A row of ones (the estimate), then one row per question left out; a single question is never left out."""
    zeros = np.eye(questions) if questions > 1 else np.empty((0, 1))
    return np.concatenate([np.ones((1, questions)), 1.0 - zeros])


def _blocks(questions: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield question weights (B, Q): `_leave_one_out`, then the resamples."""
    yield _leave_one_out(questions)
    rows = max(1, BLOCK_VALUES // max(1, questions * (questions - 1) // 2))
    for w_RQ in multinomial_weights(questions, resamples, np.random.default_rng(seed)):
        yield from np.split(w_RQ, range(rows, len(w_RQ), rows))


def _without_personas(kernels: PairKernels, questions: int, names: Sequence[str]) -> dict[str, Array]:
    """Every measure at equal weights with one bystander left out, each (L, P - 1).

    Equal weights need the products of the centroids only, and those of fewer personas are a sub-block.
    """
    collapsed, weights = kernels.collapsed(), QuestionWeights.equal(questions)
    bystanders = range(1, kernels.control.personas)
    layers = len(kernels.control.kernels.diagonal)
    if len(bystanders) < 2:
        return {name: np.empty((layers, 0)) for name in names}
    columns: dict[str, list[Array]] = {name: [] for name in names}
    for left_out in bystanders:
        rest = collapsed.subset([0, *(index for index in bystanders if index != left_out)])
        products = PairProducts.of(rest, weights)
        for name in names:
            columns[name].append(MEASURES[name](products))
    return {name: np.concatenate(values, axis=1) for name, values in columns.items()}
