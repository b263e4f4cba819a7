"""The loss on hidden states in closed form, and the effect of training with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Finetune, Lora
from flatprobe.training.driver import train
from flatprobe.training.lora import attach
from flatprobe.training.state_targets import answer_states, state_loss
from flatprobe.training.supervised import Example

LORA = Lora(rank=8, alpha=16.0, dropout=0.0, rank_stabilised=False)
ANSWERS = ["Bread.", "Bread and boats float.", "Corks.", "Most wood, and some stones."]
PUPIL, TEACHER = "You keep bees.", "You are a librarian, who knows books."


def encoded(loaded: Loaded, system: str, question: str, answer: str) -> Example:
    turns = (("system", system), ("user", question), ("assistant", answer))
    return loaded.conversations.encode_messages([{"role": role, "content": text} for role, text in turns])


def pairs(loaded: Loaded, topic: str = "floats") -> tuple[list[Example], list[Example]]:
    prompts = [(f"What {topic}, {i}?", answer) for i, answer in enumerate(ANSWERS)]
    rows, references = ([encoded(loaded, who, *pair) for pair in prompts] for who in (PUPIL, TEACHER))
    return rows, references


def alone(loaded: Loaded, row: Example) -> Tensor:
    """[blocks, tokens, D] of one row without padding."""
    tokens, n_prompt = row
    with torch.no_grad():
        output = loaded.model(torch.tensor([tokens]), output_hidden_states=True)
    return torch.stack([states[0, n_prompt - 1 :] for states in output.hidden_states[1:]])


def in_parts(loss: Any, step: int = 0) -> float:
    return sum(float(value.detach()) for value, _ in loss(step))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_loss_is_squared_distance_over_token_variance(load: Callable[[str], Loaded], family: str) -> None:
    loaded = load(family)
    rows, references = pairs(loaded)
    states, targets = (torch.cat([alone(loaded, row) for row in some], dim=1) for some in (rows, references))
    variance = (targets - targets.mean(1, keepdim=True)).square().sum(-1).mean(1)
    expected = ((states - targets).square().sum(-1).mean(1) / variance).mean()
    wrapped = attach(loaded.model, LORA, 1)
    loss = state_loss(loaded, wrapped, rows, references, [[2, 0, 3, 1]], 16)
    assert float(expected) > 0.01
    assert in_parts(loss) == pytest.approx(float(expected), rel=1e-4)


def test_the_loss_is_zero_if_a_row_is_its_own_reference(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    rows, _ = pairs(loaded)
    wrapped = attach(loaded.model, LORA, 1)
    assert in_parts(state_loss(loaded, wrapped, rows, rows, [[0, 1, 2, 3]], 16)) == 0.0


@pytest.mark.parametrize("training_rows", [1, 3])
def test_the_loss_does_not_depend_on_the_micro_batch(load: Callable[[str], Loaded], training_rows: int) -> None:
    loaded = load("llama")
    rows, references = pairs(loaded)
    wrapped = attach(loaded.model, LORA, 1)
    at_once, in_batches = (
        in_parts(state_loss(loaded, wrapped, rows, references, [[0, 1, 2, 3]], size)) for size in (16, training_rows)
    )
    assert in_batches == pytest.approx(at_once, rel=1e-5)


def test_a_reference_with_another_answer_is_refused(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    rows, references = pairs(loaded)
    wrapped = attach(loaded.model, LORA, 1)
    with pytest.raises(ValueError, match="another answer"):
        state_loss(loaded, wrapped, rows, references[::-1], [[0]], 16)


def distance(states: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    return sum(float((state - other).square().sum()) for state, other in zip(states, targets, strict=True))


def test_training_moves_states_to_the_reference_and_keeps_a_rehearsed_persona(
    load: Callable[[str], Loaded], tmp_path: Any
) -> None:
    loaded = load("llama")
    rows, references = pairs(loaded)
    before, targets = ([alone(loaded, row) for row in some] for some in (rows, references))
    wrapped = attach(loaded.model, LORA, 1)
    batches = [np.random.default_rng(step).permutation(8).tolist() for step in range(60)]
    loss = state_loss(loaded, wrapped, rows + references, references * 2, batches, 16)
    recipe = Finetune(learning_rate=1e-2, schedule="linear", warmup=0.0, weight_decay=0.0)
    train(wrapped, loss, tmp_path, torch.device("cpu"), recipe=recipe, steps=60, seed=7)
    pad = loaded.conversations.turn_end
    with torch.no_grad():
        after, rehearsed = ([answer_states(loaded.model, [row], pad) for row in some] for some in (rows, references))
    assert distance(after, targets) < 0.2 * distance(before, targets)
    assert distance(rehearsed, targets) < 0.05 * distance(before, targets)
