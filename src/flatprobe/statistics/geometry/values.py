"""Values of the geometric measures: on all data, with one question or persona left out, and on resamples.

The same question draws serve every persona, condition, layer and measure, so differences of measures are paired
and draws of several layers, contrasts and positions are joint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array, multinomial_weights
from flatprobe.statistics.geometry.grams import ConditionGrams, PairGrams, Part
from flatprobe.statistics.geometry.kernels import QuestionWeights
from flatprobe.statistics.geometry.measures import MEASURES, NEEDS, PairPanel, PairProducts
from flatprobe.statistics.geometry.products import Products

BLOCK_VALUES = 250_000
"""Products of question weights held at once: 2 MB, which a core's cache can keep."""


_HAS: dict[Part, Callable[[PairGrams], bool]] = {
    "moves": lambda pair: pair.onto_move_LPQPQ is not None,
    "trimmed": lambda pair: pair.trimmed_treated_LPQPQ is not None and pair.trimmed_control_LPQPQ is not None,
}


@dataclass(frozen=True, eq=False)
class Values:
    """One measure of one contrast, on the scale of `MEASURES`; NaN where undefined."""

    estimate_L: Array
    without_question_LQ: Array
    """One column per question left out; none where there is a single question."""
    without_persona_LN: Array
    """One column per bystander left out; none where there is a single bystander."""
    draws_LR: Array

    def over_layers(self) -> Values:
        """The mean over layers, as if it were one layer; undefined where one layer is."""
        means = (
            values.mean(axis=0, keepdims=True)
            for values in (self.estimate_L, self.without_question_LQ, self.without_persona_LN, self.draws_LR)
        )
        return Values(*means)

    def at(self, index: int) -> Values:
        """One layer."""
        kept = slice(index, index + 1)
        return Values(
            self.estimate_L[kept],
            self.without_question_LQ[kept],
            self.without_persona_LN[kept],
            self.draws_LR[kept],
        )


def measure_values(
    pairs: Sequence[PairGrams], *, resamples: int, seed: int, measures: Sequence[str] | None = None
) -> list[dict[str, Values]]:
    """Values of the measures named (default: all of `MEASURES`) for every pair, in the order given.

    `resamples` may be 0. A condition's own products are computed once for all pairs that share its
    `ConditionGrams`. UserError for an unknown measure, no pair, and pairs on different questions.
    """
    names = tuple(MEASURES if measures is None else measures)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise UserError.one(
            "values.TODO",
            "measures",
            f"{', '.join(unknown) or 'none'} is not a measure",
            f"known: {', '.join(MEASURES)}",
        )
    lacking = {
        name: NEEDS[name] for name in names if name in NEEDS and not all(map(_HAS[NEEDS[name]], pairs))
    }
    if lacking:
        named = ", ".join(f"{name} ({part})" for name, part in lacking.items())
        raise UserError.one(
            "values.TODO",
            "measures",
            f"the Gram matrices lack what {named} reads",
            "make them with all parts",
        )
    if not pairs or len({pair.control.questions for pair in pairs}) != 1:
        raise UserError.one(
            "values.TODO", "contrasts", "none is given, or their questions differ", "give equal questions"
        )
    questions, columns = len(pairs[0].control.questions), 0
    width = len(_leave_one_out(questions)) + resamples
    panels = [PairPanel.of(pair) for pair in pairs]
    found = [{name: np.empty((len(pair.control.layers), width)) for name in names} for pair in pairs]
    for w_BQ in _blocks(questions, resamples, seed):
        weights, block = QuestionWeights.of(w_BQ), slice(columns, columns + len(w_BQ))
        own: dict[ConditionGrams, Products] = {}
        for pair, panel, values in zip(pairs, panels, found, strict=True):
            for side, kernels in ((pair.treated, panel.treated), (pair.control, panel.control)):
                own.setdefault(side, Products(kernels, weights))
            products = PairProducts(panel, own[pair.treated], own[pair.control], weights)
            for name in names:
                values[name][:, block] = MEASURES[name](products)
        columns = block.stop
    return [_values(values, panel, questions) for values, panel in zip(found, panels, strict=True)]


def _values(found: dict[str, Array], panel: PairPanel, questions: int) -> dict[str, Values]:
    left_out, first = _without_personas(panel, questions, tuple(found)), len(_leave_one_out(questions))
    return {
        name: Values(values[:, 0], values[:, 1:first], left_out[name], values[:, first:])
        for name, values in found.items()
    }


def _leave_one_out(questions: int) -> Array:
    """A row of ones (the estimate), then one row per question left out; an only question stays."""
    zeros = np.eye(questions) if questions > 1 else np.empty((0, 1))
    return np.concatenate([np.ones((1, questions)), 1.0 - zeros])


def _blocks(questions: int, resamples: int, seed: int) -> Iterator[Array]:
    """Question weights (B, Q): `_leave_one_out`, then the resamples."""
    yield _leave_one_out(questions)
    rows = max(1, BLOCK_VALUES // max(1, questions * (questions - 1) // 2))
    for w_RQ in multinomial_weights(questions, resamples, np.random.default_rng(seed)):
        yield from np.split(w_RQ, range(rows, len(w_RQ), rows))


def _without_personas(panel: PairPanel, questions: int, names: Sequence[str]) -> dict[str, Array]:
    """Every measure at equal weights with one bystander left out, each (L, P - 1).

    The centroids' products are all that equal weights leave to know, so a smaller panel is a sub-block of them.
    """
    collapsed, weights = panel.collapsed(), QuestionWeights.equal(questions)
    bystanders = range(1, panel.control.personas)
    layers = len(panel.control.kernels.same)
    if len(bystanders) < 2:
        return {name: np.empty((layers, 0)) for name in names}
    columns: dict[str, list[Array]] = {name: [] for name in names}
    for left_out in bystanders:
        kept = collapsed.subset([0, *(index for index in bystanders if index != left_out)])
        sides = (Products(kept.treated, weights), Products(kept.control, weights))
        products = PairProducts(kept, *sides, weights)
        for name in names:
            columns[name].append(MEASURES[name](products))
    return {name: np.concatenate(values, axis=1) for name, values in columns.items()}
