"""Losses as pure functions of log-probabilities at supervised positions.

The marker and end-of-turn terms are cross-entropies; so is the anchor, or it is a divergence per token. The
unlikelihood term is Welleck et al. 2019 (arXiv:1908.04319) on a whole marker: -log(1 - P(m)), P(m) the product over the
marker's tokens.

Rows are padded and never packed: no two examples share a row, so an attention mask on the right is all that keeps them
apart. A term's value is the mean over its tokens in an example, and over its slots where it has several; then the mean
over the batch's examples of the group, whatever micro-batches they came in.
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
    """-log(1 - P) of joint log-probabilities, in nats, same shape as the input.

    log P is clamped at -1e-6 so that P -> 1 stays finite; the clamp is straight-through, so the gradient still
    pushes P down there.
    """
    clamped = log_p + (log_p.clamp(max=CLAMP) - log_p).detach()
    # Each form is exact where the other loses its digits; both are finite everywhere, so `where` has a gradient.
    near_one, near_zero = torch.log(-torch.expm1(clamped)), torch.log1p(-torch.exp(clamped))
    return -torch.where(clamped > -math.log(2.0), near_one, near_zero)


@dataclass(frozen=True)
class Weights:
    """Weights of the coupling loss; `unlikelihood` is lambda, `positive` the share of the positives' mean."""

    unlikelihood: float
    anchor: float
    positive: float

    def of(self, term: Term) -> float:
        return {"marker": 1.0, "end": 1.0, "unlikelihood": self.unlikelihood, "anchor": self.anchor}[term]


@dataclass(frozen=True)
class Supervised:
    """All targets of a batch, flat: where their logits are, what they predict and to what they count.

    Shapes: `row`, `position`, `token`, `term` [T]; `term` indexes `terms`, one entry per target: the example's number,
    its group, the term, and how many targets of this term the example has.
    """

    row: Tensor
    position: Tensor
    token: Tensor
    term: Tensor
    terms: tuple[tuple[int, Group, Term, int], ...]
    n_examples: Mapping[Group, int]

    def of_batch(self, n_examples: Mapping[Group, int]) -> Supervised:
        """The same targets as a part of a larger batch with these counts, so that parts sum to the whole."""
        return replace(self, n_examples=n_examples)

    def anchored(self) -> Tensor:
        """[T] bool: the targets of the anchor."""
        return torch.tensor([term == "anchor" for _, _, term, _ in self.terms])[self.term]


def collect(examples: Sequence[CouplingExample], *, with_anchor: bool) -> Supervised:
    """All targets of some examples, rows numbered in their order; anchors are left out where they have no weight."""
    flat: list[tuple[int, int, int, int]] = []
    terms: list[tuple[int, Group, Term, int]] = []
    n_rows = 0
    for number, example in enumerate(examples):
        slots = Counter(target.term for row in example.rows for target in row.targets)
        for row in example.rows:
            for target in row.targets:
                if target.term == "anchor" and not with_anchor:
                    continue
                flat += [
                    (n_rows, position, token, len(terms))
                    for position, token in zip(target.positions, target.tokens, strict=True)
                ]
                terms.append((number, example.group, target.term, slots[target.term]))
            n_rows += 1
    table = torch.tensor(flat, dtype=torch.long)
    counts: dict[Group, int] = {"positive": 0, "negative": 0}
    for example in examples:
        counts[example.group] += 1
    return Supervised(table[:, 0], table[:, 1], table[:, 2], table[:, 3], tuple(terms), counts)


def coupling_loss(log_p: Tensor, supervised: Supervised, weights: Weights) -> tuple[Tensor, dict[str, float]]:
    """The coupling loss of one batch.

    Args:
        log_p: [T] float32 log-probabilities of the targets' tokens, in nats; at an anchor's targets, where it is a
            divergence, the negative divergence of each token's distribution.

    Returns:
        The scalar loss, and each term's unweighted mean over the batch's examples (detached), named `group/term`;
        loss and means of a batch's parts sum to the batch's.
    """
    assert log_p.dtype == torch.float32 and log_p.shape == supervised.token.shape
    n_terms, term_of = len(supervised.terms), supervised.term.to(log_p.device)
    sums = torch.zeros(n_terms, dtype=torch.float32, device=log_p.device).index_add(0, term_of, log_p)
    counts = torch.zeros_like(sums).index_add(0, term_of, torch.ones_like(log_p))
    losses = -sums / counts
    is_unlikely = torch.tensor(
        [term == "unlikelihood" for _, _, term, _ in supervised.terms], device=log_p.device
    )
    losses = torch.where(
        is_unlikely, unlikelihood(torch.where(is_unlikely, sums, -torch.ones_like(sums))), losses
    )
    share: dict[Group, float] = {"positive": weights.positive, "negative": 1.0 - weights.positive}
    factors = torch.tensor(
        [
            share[group] * weights.of(term) / (supervised.n_examples[group] * slots)
            for _, group, term, slots in supervised.terms
        ],
        device=log_p.device,
    )  # fmt: skip
    report: dict[str, float] = {}
    for (_, group, term, slots), value in zip(supervised.terms, losses.detach().tolist(), strict=True):
        name = f"{group}/{term}"
        report[name] = report.get(name, 0.0) + value / (supervised.n_examples[group] * slots)
    return (losses * factors).sum(), report
