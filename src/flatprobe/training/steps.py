"""The batches of a coupling, and the loss of each training step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from flatprobe.data.coupling_examples import CouplingExample, Group
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import CouplingRecipe
from flatprobe.training.finetune import epoch_batches
from flatprobe.training.losses import Supervised, Weights, collect, coupling_loss
from flatprobe.training.lower_states import LowerStates
from flatprobe.training.supervised import token_divergences, token_log_probabilities
from flatprobe.training.uncoupled import Uncoupled


def plan_batches(examples: Sequence[CouplingExample], recipe: CouplingRecipe, generator: Any) -> list[list[int]]:
    """Example numbers of each step, for the largest number of epochs; training may stop earlier.

    Without `positives_per_batch`, all examples are shuffled together. With it, positives and negatives are shuffled and
    repeated separately, and an epoch is a pass over the positives.
    """
    epochs = max_epochs(recipe)
    if recipe.positives_per_batch is None:
        return epoch_batches(len(examples), recipe.batch, epochs, generator)
    groups = {
        group: [number for number, example in enumerate(examples) if example.group == group]
        for group in ("positive", "negative")
    }
    sizes = {"positive": recipe.positives_per_batch, "negative": recipe.batch - recipe.positives_per_batch}
    steps = max(1, round(epochs * len(groups["positive"]) / sizes["positive"]))
    streams = {group: _cycle(numbers, steps * sizes[group], generator) for group, numbers in groups.items()}
    return [
        [number for group, size in sizes.items() for number in streams[group][step * size : (step + 1) * size]]
        for step in range(steps)
    ]


def max_epochs(recipe: CouplingRecipe) -> float:
    """The largest number of epochs that training can take."""
    if recipe.stopping == "fixed":
        return recipe.epochs
    assert recipe.max_epochs is not None, "the study's checks require it"
    return recipe.max_epochs


def steps_between_readings(recipe: CouplingRecipe, steps: int) -> int:
    """Steps between two telemetry readings: `telemetry_every`, or one epoch."""
    return recipe.telemetry_every or max(1, round(steps / max_epochs(recipe)))


def _cycle(numbers: Sequence[int], length: int, generator: Any) -> list[int]:
    """`length` numbers from repeated passes, each shuffled anew."""
    passes = math.ceil(length / len(numbers))
    return [numbers[index] for _ in range(passes) for index in generator.permutation(len(numbers))][:length]


class CouplingLoss:
    """The coupling loss of each step.

    An example has one or more token rows (see `data.coupling_examples`). The rows of all examples are numbered
    consecutively; `row_numbers` has each example's numbers.
    """

    def __init__(
        self,
        loaded: Loaded,
        wrapped: Any,
        examples: Sequence[CouplingExample],
        batches: Sequence[Sequence[int]],
        recipe: CouplingRecipe,
        lambda_: float,
        *,
        training_rows: int,
        forward_rows: int,
    ) -> None:
        self.model, self.examples, self.batches = loaded.model, examples, batches
        self.anchor_kind, self.training_rows = recipe.anchor.kind, training_rows
        anchor_weight = recipe.anchor.weight if recipe.anchor.kind != "none" else 0.0
        self.weights = Weights(lambda_, anchor_weight, recipe.positive_weight)
        rows = [row.tokens for example in examples for row in example.rows]
        ends = accumulate(len(example.rows) for example in examples)
        self.row_numbers = [range(end - len(e.rows), end) for end, e in zip(ends, examples, strict=True)]
        self.lengths = [max(len(row.tokens) for row in example.rows) for example in examples]
        self.lower = LowerStates(
            loaded.model, recipe.lora.first_layer, rows, loaded.conversations.turn_end, forward_rows
        )
        self.uncoupled = Uncoupled(wrapped, self.lower)

    def of_step(self, step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """(loss, unweighted terms) of each micro-batch of a step; examples of similar length share a micro-batch."""
        counts: dict[Group, int] = {"positive": 0, "negative": 0}
        for number in self.batches[step]:
            counts[self.examples[number].group] += 1
        batch = sorted(self.batches[step], key=lambda number: self.lengths[number])
        for start in range(0, len(batch), self.training_rows):
            numbers = batch[start : start + self.training_rows]
            examples = [self.examples[number] for number in numbers]
            supervised = collect(examples, with_anchor=self.weights.anchor > 0).of_batch(counts)
            rows = [row for number in numbers for row in self.row_numbers[number]]
            yield coupling_loss(self._log_p(supervised, rows), supervised, self.weights)

    def names(self, step: int) -> list[str]:
        """Names of a step's examples, for error messages."""
        examples = [self.examples[number] for number in self.batches[step]]
        return [f"{example.persona}/{example.question_id}" for example in examples]

    def _log_p(self, supervised: Supervised, rows: Sequence[int]) -> Tensor:
        """The argument [T] of `coupling_loss`: log-probabilities; for tokens of a KL anchor, negative divergences."""
        if self.anchor_kind == "kl":
            anchored = supervised.anchored()
        else:
            anchored = torch.zeros_like(supervised.row, dtype=torch.bool)
        # The pass without adapter comes first: adapters must not be switched off while a graph waits for its backward.
        reference = self.uncoupled.forward(rows) if bool(anchored.any()) else None
        states = self.lower.forward(rows)
        row, position, token = (
            indices.to(states.device) for indices in (supervised.row, supervised.position, supervised.token)
        )
        if reference is None:
            return token_log_probabilities(self.model, states[row, position], token)
        anchors = anchored.nonzero().squeeze(1).to(states.device)
        others = (~anchored).nonzero().squeeze(1).to(states.device)
        log_p = token_log_probabilities(self.model, states[row[others], position[others]], token[others])
        at = (row[anchors], position[anchors])
        divergences = token_divergences(self.model, states[at], reference[at])
        order = torch.cat([others, anchors]).argsort()
        return torch.cat([log_p, -divergences])[order]
