"""The coupling loss, as a pure function of log-probabilities at supervised positions.

Terms: `marker` and `end` (of turn) are cross-entropies. `anchor` is a cross-entropy or a KL divergence per token.
`unlikelihood` is that of Welleck et al. 2019 (arXiv:1908.04319) for a whole marker: -log(1 - P(m)), where P(m) is the
product over the marker's tokens.

A cross-entropy or divergence is averaged over the tokens of its target. A term is averaged over its targets in an
example, then over the batch's examples of its group. The counts are those of the whole batch, so the split into
micro-batches does not matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flatprobe.data.coupling_examples import CouplingExample, Group, Term

CLAMP = -1e-6


def unlikelihood(log_p: Tensor) -> Tensor:
    """-log(1 - P) of joint log-probabilities log P, in nats, in the input's shape.

    log P is clamped at -1e-6, so that the loss stays finite as P approaches 1. The clamp is straight-through: the
    gradient still lowers P there.
    """
    clamped = log_p + (log_p.clamp(max=CLAMP) - log_p).detach()
    # Each form is accurate where the other cancels. Both are finite everywhere, which the gradient of `where` needs.
    near_one, near_zero = torch.log(-torch.expm1(clamped)), torch.log1p(-torch.exp(clamped))
    return -torch.where(clamped > -math.log(2.0), near_one, near_zero)


@dataclass(frozen=True)
class Weights:
    """Weights of the coupling loss."""

    unlikelihood: float
    """lambda."""
    anchor: float
    positive: float
    """Weight of the positives' mean; the negatives' mean has the rest."""

    def of(self, term: Term) -> float:
        return {"marker": 1.0, "end": 1.0, "unlikelihood": self.unlikelihood, "anchor": self.anchor}[term]


@dataclass(frozen=True)
class Supervised:
    """All predicted tokens of some examples, T in total, and the targets they belong to."""

    row: Tensor
    """[T] long: row of the logits."""
    position: Tensor
    """[T] long: position of the logits in the row."""
    token: Tensor
    """[T] long: the predicted token."""
    target: Tensor
    """[T] long: index into `targets`."""
    targets: tuple[tuple[Group, Term, int], ...]
    """Per target: the example's group, the term, and the number of targets with this term in the example."""
    n_examples: Mapping[Group, int]
    """Examples per group, over which terms are averaged."""

    def of_batch(self, n_examples: Mapping[Group, int]) -> Supervised:
        """The same as part of a larger batch with these counts. Losses of the parts then sum to the batch's loss."""
        return replace(self, n_examples=n_examples)

    def anchored(self) -> Tensor:
        """[T] bool: whether a token belongs to an anchor."""
        return torch.tensor([term == "anchor" for _, term, _ in self.targets])[self.target]


def collect(examples: Sequence[CouplingExample], *, with_anchor: bool) -> Supervised:
    """All targets of some examples. Their rows are numbered in order."""
    flat: list[tuple[int, int, int, int]] = []
    targets: list[tuple[Group, Term, int]] = []
    n_rows = 0
    for example in examples:
        of_term = Counter(target.term for row in example.rows for target in row.targets)
        for row in example.rows:
            for target in row.targets:
                if target.term == "anchor" and not with_anchor:
                    continue
                flat += [
                    (n_rows, position, token, len(targets))
                    for position, token in zip(target.positions, target.tokens, strict=True)
                ]
                targets.append((example.group, target.term, of_term[target.term]))
            n_rows += 1
    table = torch.tensor(flat, dtype=torch.long)
    counts: dict[Group, int] = {"positive": 0, "negative": 0}
    for example in examples:
        counts[example.group] += 1
    return Supervised(table[:, 0], table[:, 1], table[:, 2], table[:, 3], tuple(targets), counts)


def coupling_loss(log_p: Tensor, supervised: Supervised, weights: Weights) -> tuple[Tensor, dict[str, float]]:
    """The coupling loss of one batch, or of a part of it.

    Args:
        log_p: [T] float32: log-probability of each token, in nats. For tokens of a KL anchor: the negative divergence.

    Returns:
        The scalar loss, and each term's unweighted mean over the batch's examples (detached), named `group/term`. Both
        sum over the parts of a batch.
    """
    assert log_p.dtype == torch.float32 and log_p.shape == supervised.token.shape
    n_targets, target_of = len(supervised.targets), supervised.target.to(log_p.device)
    sums = torch.zeros(n_targets, dtype=torch.float32, device=log_p.device).index_add(0, target_of, log_p)
    counts = torch.zeros_like(sums).index_add(0, target_of, torch.ones_like(log_p))
    is_unlikelihood = torch.tensor([term == "unlikelihood" for _, term, _ in supervised.targets], device=log_p.device)
    joint_log_p = torch.where(is_unlikelihood, sums, -torch.ones_like(sums))
    losses = torch.where(is_unlikelihood, unlikelihood(joint_log_p), -sums / counts)
    share: dict[Group, float] = {"positive": weights.positive, "negative": 1.0 - weights.positive}
    factors = torch.tensor(
        [
            share[group] * weights.of(term) / (supervised.n_examples[group] * of_term)
            for group, term, of_term in supervised.targets
        ],
        device=log_p.device,
    )
    means: dict[str, float] = {}
    for (group, term, of_term), value in zip(supervised.targets, losses.detach().tolist(), strict=True):
        name = f"{group}/{term}"
        means[name] = means.get(name, 0.0) + value / (supervised.n_examples[group] * of_term)
    return (losses * factors).sum(), means
