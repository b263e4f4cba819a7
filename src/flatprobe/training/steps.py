"""What each step of a coupling trains on, and the loss of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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


def plan_batches(
    examples: Sequence[CouplingExample], recipe: CouplingRecipe, generator: Any
) -> list[list[int]]:
    """Numbers of the examples of each step, up to the cap where training may stop before it.

    With `positives_per_batch`, positives and negatives are shuffled and cycled apart, and an epoch is a pass over
    the positives; otherwise all are shuffled together.
    """
    epochs = most_epochs(recipe)
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
        [
            number
            for group, size in sizes.items()
            for number in streams[group][step * size : (step + 1) * size]
        ]
        for step in range(steps)
    ]


def most_epochs(recipe: CouplingRecipe) -> float:
    """The passes after which training ends at the latest."""
    if recipe.stopping == "fixed":
        return recipe.epochs
    assert recipe.max_epochs is not None, "a study without it is refused"
    return recipe.max_epochs


def steps_between_readings(recipe: CouplingRecipe, steps: int) -> int:
    """Steps between two readings of the telemetry: as registered, else a pass."""
    return recipe.telemetry_every or max(1, round(steps / most_epochs(recipe)))


def _cycle(numbers: Sequence[int], length: int, generator: Any) -> list[int]:
    """`length` numbers from repeated, freshly shuffled passes."""
    passes = math.ceil(length / len(numbers))
    return [numbers[index] for _ in range(passes) for index in generator.permutation(len(numbers))][:length]


class CouplingLoss:
    """The coupling loss by steps; parts are weighted by the whole batch's counts, so micro-batches do not matter."""

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
        self.model, self.examples, self.batches, self.kind = (
            loaded.model,
            examples,
            batches,
            recipe.anchor.kind,
        )
        self.training_rows = training_rows
        anchor = recipe.anchor.weight if recipe.anchor.kind != "none" else 0.0
        self.weights = Weights(lambda_, anchor, recipe.positive_weight)
        rows = [row.tokens for example in examples for row in example.rows]
        ends = torch.tensor([len(example.rows) for example in examples]).cumsum(0).tolist()
        self.rows = [range(end - len(e.rows), end) for end, e in zip(ends, examples, strict=True)]
        self.lengths = [max(len(row.tokens) for row in example.rows) for example in examples]
        self.lower = LowerStates(
            loaded.model, recipe.lora.first_layer, rows, loaded.conversations.turn_end, forward_rows
        )
        self.uncoupled = Uncoupled(wrapped, self.lower)

    def parts(self, step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """(loss, unweighted terms) of each micro-batch of a step; examples of like length go together."""
        counts: dict[Group, int] = {"positive": 0, "negative": 0}
        for number in self.batches[step]:
            counts[self.examples[number].group] += 1
        batch = sorted(self.batches[step], key=lambda number: self.lengths[number])
        for start in range(0, len(batch), self.training_rows):
            numbers = batch[start : start + self.training_rows]
            examples = [self.examples[number] for number in numbers]
            supervised = collect(examples, with_anchor=self.weights.anchor > 0).of_batch(counts)
            rows = [row for number in numbers for row in self.rows[number]]
            yield coupling_loss(self._log_p(supervised, rows), supervised, self.weights)

    def names(self, step: int) -> list[str]:
        """The examples of a step, for a message."""
        chosen = [self.examples[number] for number in self.batches[step]]
        return [f"{example.persona}/{example.question_id}" for example in chosen]

    def _log_p(self, supervised: Supervised, rows: Sequence[int]) -> Tensor:
        """[T] of `coupling_loss`: log-probabilities, at anchors by KL the negative divergences."""
        anchored = (
            supervised.anchored() if self.kind == "kl" else torch.zeros_like(supervised.row, dtype=torch.bool)
        )
        # The uncoupled pass comes first: it switches adapters off, which no graph may be waiting for.
        reference = self.uncoupled.forward(rows) if bool(anchored.any()) else None
        states = self.lower.forward(rows)
        device = states.device
        row, position, token = (
            part.to(device) for part in (supervised.row, supervised.position, supervised.token)
        )
        if reference is None:
            return token_log_probabilities(self.model, states[row, position], token)
        held, free = anchored.nonzero().squeeze(1).to(device), (~anchored).nonzero().squeeze(1).to(device)
        log_p = token_log_probabilities(self.model, states[row[free], position[free]], token[free])
        place = (row[held], position[held])
        divergences = token_divergences(self.model, states[place], reference[place])
        order = torch.cat([free, held]).argsort()
        return torch.cat([log_p, -divergences])[order]
