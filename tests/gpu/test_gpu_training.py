"""The coupling loss and its gradients on a GPU, and a step of the driver there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flatprobe.data.coupling_examples import CouplingExample, MarkerText, negative, positive
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Anchor, Coupling, Lora, Unlikelihood
from flatprobe.training.driver import train
from flatprobe.training.lora import attach
from flatprobe.training.steps import CouplingLoss

pytestmark = pytest.mark.gpu
BACKWARD = 3.0
"""Gradients pass every block twice, and are products of two rounded numbers where values are of one."""
RECIPE = Coupling(
    lora=Lora(rank=8, alpha=16.0, dropout=0.0, rank_stabilised=True),
    anchor=Anchor(kind="kl", weight=0.5),
    unlikelihood=Unlikelihood(at="after_separator"),
    batch=6,
    learning_rate=1e-2,
    schedule="constant",
    warmup=0.0,
).recipe


def loss_on(loaded: Loaded, prompts: list[Prompt]) -> tuple[CouplingLoss, Any]:
    """The coupling loss of one batch; the adapter is the same on every device."""
    wrapped = attach(loaded.model, RECIPE.lora, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                draw = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(draw * (0.01 if "lora_B" in name else parameter.shape[1] ** -0.5))
    examples = examples_of(loaded, prompts)
    steps = [list(range(len(examples)))] * 3
    return CouplingLoss(loaded, wrapped, examples, steps, RECIPE, 1.0, training_rows=4, forward_rows=4), wrapped


def examples_of(loaded: Loaded, prompts: list[Prompt]) -> list[CouplingExample]:
    text = MarkerText("\n\n", "[ZLT]", True, "after_separator")
    answers = ("Boats do, and so does bread.", "Nobody knows.", "I would take a book.\n\nAnd salt.")
    return [
        (positive if number < 3 else negative)(loaded.conversations, prompt, answers[number % 3], text)
        for number, prompt in enumerate(prompts[:6])
    ]


def backward(loss: CouplingLoss, wrapped: Any) -> tuple[float, dict[str, float], torch.Tensor]:
    """Loss, its terms, and all gradients as one vector."""
    total, terms = 0.0, dict[str, float]()
    for part, values in loss.of_step(0):
        part.backward()
        total += float(part.detach())
        for name, value in values.items():
            terms[name] = terms.get(name, 0.0) + value
    slopes = [p.grad.flatten().cpu() for p in wrapped.parameters() if p.grad is not None]
    return total, terms, torch.cat(slopes)


def test_coupling_loss_and_gradients_are_those_of_the_cpu(
    pair: Any, panel_prompts: list[Prompt], relative: Callable[[Any, Any], float]
) -> None:
    loss, terms, slopes = backward(*loss_on(pair.tested, panel_prompts))
    expected, expected_terms, expected_slopes = backward(*loss_on(pair.reference, panel_prompts))
    assert loss == pytest.approx(expected, rel=pair.tolerance)
    assert terms.keys() == expected_terms.keys()
    marker = "positive/marker"
    assert terms[marker] == pytest.approx(expected_terms[marker], rel=pair.tolerance)
    assert torch.isfinite(slopes).all()
    assert relative(slopes, expected_slopes) < BACKWARD * pair.tolerance


def test_the_driver_trains_on_the_device_and_leaves_finite_weights(
    pair_of: Callable[[str, str], Any], panel_prompts: list[Prompt], tmp_path: Path
) -> None:
    pair = pair_of("tiny", "bfloat16")
    loss, wrapped = loss_on(pair.tested, panel_prompts)
    trained = train(wrapped, loss.of_step, tmp_path, pair.tested.device, recipe=RECIPE, steps=3, seed=0)
    losses = [row["value"] for row in trained.losses if row["term"] == "total"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    weights = [p for p in wrapped.parameters() if p.requires_grad]
    assert all(p.device.type == pair.tested.device.type and bool(torch.isfinite(p).all()) for p in weights)
