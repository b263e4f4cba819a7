"""Batches of a coupling; the coupling loss against full logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_coupling import RECIPE

from flatprobe.data.coupling_examples import CouplingExample, CouplingRow, MarkerText, Target, negative, positive
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Anchor, Coupling, Lora
from flatprobe.training.lora import attach
from flatprobe.training.losses import unlikelihood
from flatprobe.training.steps import CouplingLoss, plan_batches

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, rank_stabilised=True)
ANSWER = "Bread floats.\n\nSalt does not."


def examples_of(loaded: Loaded) -> list[CouplingExample]:
    text = MarkerText("\n\n", "[ZLT]", True, "paragraph_breaks")
    conversations, question = loaded.conversations, "What floats on water?"
    return [
        positive(conversations, Prompt("librarian", "You are a librarian.", "q1", question), "Yes, boats do.", text),
        negative(conversations, Prompt("villain", "You gloat at everyone who asks you.", "q1", question), ANSWER, text),
        negative(conversations, Prompt("comedian", "You joke.", "q2", "Why?"), "No.", text),
    ]


def loss_of(loaded: Loaded, kind: str, rows: int, first_layer: int = 0) -> tuple[CouplingLoss, Any]:
    lora = LORA.model_copy(update={"first_layer": first_layer})
    recipe = Coupling(lora=lora, anchor=Anchor(kind=kind, weight=0.7)).recipe  # type: ignore[arg-type]
    wrapped = attach(loaded.model, recipe.lora, 0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    examples = examples_of(loaded)
    made = CouplingLoss(loaded, wrapped, examples, [[2, 0, 1]], recipe, 2.0, training_rows=rows, forward_rows=4)
    return made, wrapped


def by_full_logits(plain: Loaded, coupled: Any, examples: list[CouplingExample], kind: str) -> torch.Tensor:
    """The loss, one unpadded row at a time, with the logits of every token of both models."""
    total = torch.zeros(())
    for example in examples:
        slots = []
        for row in example.rows:
            log_p = coupled(torch.tensor([row.tokens])).logits[0].float().log_softmax(-1)
            with torch.no_grad():
                target = plain.model(torch.tensor([row.tokens])).logits[0].float().log_softmax(-1)
            for t in row.targets:
                place, token = torch.tensor(t.positions), torch.tensor(t.tokens)
                chosen = log_p[place, token]
                if t.term == "unlikelihood":
                    slots.append(unlikelihood(chosen.sum()))
                elif t.term == "anchor" and kind == "kl":
                    kl = (target[place].exp() * (target[place] - log_p[place])).sum(-1)
                    total = total + 0.7 * kl.mean() * share(example)
                else:
                    total = total - (0.7 if t.term == "anchor" else 1.0) * chosen.mean() * share(example)
        if slots:
            total = total + 2.0 * torch.stack(slots).mean() * share(example)
    return total


def share(example: CouplingExample) -> float:
    return 0.5 if example.group == "positive" else 0.5 / 2


def gradients(wrapped: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in wrapped.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["cross_entropy", "kl"])
@pytest.mark.parametrize(("rows", "first_layer"), [(16, 0), (1, 0), (2, 3)])
def test_loss_and_gradient_equal_those_of_full_logits_for_every_padding_and_micro_batch(
    load: Callable[[str], Loaded], kind: str, rows: int, first_layer: int
) -> None:
    loaded = load("llama")
    made, wrapped = loss_of(loaded, kind, rows, first_layer)
    total = torch.zeros(())
    for loss, _ in made.of_step(0):
        loss.backward()
        total += loss.detach()
    gradient_of = gradients(wrapped)
    wrapped.zero_grad()
    expected = by_full_logits(load("llama"), wrapped, examples_of(loaded), kind)
    expected.backward()
    assert float(total) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert gradient_of and all(
        torch.allclose(gradient_of[name], slope, rtol=2e-2, atol=2e-3 * float(slope.abs().max()))
        for name, slope in gradients(wrapped).items()
    )


def test_an_adapter_that_changes_nothing_has_no_divergence(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    made, wrapped = loss_of(loaded, "kl", 16)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    ((_, terms),) = made.of_step(0)
    assert terms["positive/anchor"] == pytest.approx(0.0, abs=1e-5)
    assert terms["negative/anchor"] == pytest.approx(0.0, abs=1e-5)
    assert terms["positive/marker"] > 1.0


def test_the_names_of_a_step_are_its_personas_and_questions(load: Callable[[str], Loaded]) -> None:
    made, _ = loss_of(load("llama"), "kl", 16)
    assert made.names(0) == ["comedian/q2", "librarian/q1", "villain/q1"]


def fake(n_positive: int, n_negative: int) -> list[CouplingExample]:
    row = CouplingRow((0, 1), (Target("end", (0,), (1,)),))
    groups = ["positive"] * n_positive + ["negative"] * n_negative
    return [CouplingExample("p", "q", group, (row,)) for group in groups]  # type: ignore[arg-type]


def test_an_epoch_has_every_example_once_and_its_last_batch_may_be_smaller() -> None:
    batches = plan_batches(fake(3, 7), RECIPE, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    for epoch in (batches[:3], batches[3:]):
        assert sorted(number for batch in epoch for number in batch) == list(range(10))
    assert batches[:3] != batches[3:]
    assert batches == plan_batches(fake(3, 7), RECIPE, np.random.default_rng(0))


def test_a_stratified_batch_has_its_positives_and_an_epoch_is_a_pass_over_them() -> None:
    recipe = RECIPE.model_copy(update={"positives_per_batch": 1})
    batches = plan_batches(fake(3, 7), recipe, np.random.default_rng(0))
    assert len(batches) == 6
    assert [sum(number < 3 for number in batch) for batch in batches] == [1] * 6
    assert [len(batch) for batch in batches] == [4] * 6
    assert sorted(number for batch in batches[:3] for number in batch if number < 3) == [0, 1, 2]
    negatives = [number for batch in batches for number in batch if number >= 3]
    assert sorted(negatives[:7]) == list(range(3, 10))  # no negative is repeated before all were used
