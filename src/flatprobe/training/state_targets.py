"""Finetune loss on hidden states: moves the states of an answer to those that it has under another prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatprobe.models.load import Loaded
from flatprobe.training.driver import StepLoss
from flatprobe.training.lora import without_adapter
from flatprobe.training.supervised import Example, right_padded

VARIANCE_ROWS = 64
"""Number of random references from which each block's variance over tokens is estimated."""
VARIANCE_SEED = 0


def state_loss(
    loaded: Loaded,
    wrapped: Any,
    rows: Sequence[Example],
    references: Sequence[Example],
    batches: Sequence[Sequence[int]],
    training_rows: int,
) -> StepLoss:
    """The loss: squared distance between states and reference states, relative to the variance of states over tokens.

    A row's reference state is that of the checkpoint without its adapter at the same token of the reference. Per block
    and token, the squared distance is divided by the block's variance over tokens (summed over dimensions). The loss is
    the mean over blocks (the last one's state is taken after the final norm) and over the batch's tokens, from the last
    token before the answer to the end of turn. It is 0 if the states equal their references. It starts far below 1,
    because most of the variance is between tokens; compare it with its first value.

    Args:
        wrapped: the `peft` model around `loaded.model`.
        rows: the trained examples.
        references: for each row, the same answer under the other prompt.
        batches: row numbers of each step; rows of similar length share a micro-batch.

    Raises:
        ValueError: a reference's answer differs from its row's.
    """
    for (tokens, n_prompt), (reference, reference_prompt) in zip(rows, references, strict=True):
        if list(tokens[n_prompt:]) != list(reference[reference_prompt:]):
            raise ValueError("a reference has another answer than its row")
    pad = loaded.conversations.turn_end

    def reference_states(examples: Sequence[Example]) -> Tensor:
        with torch.no_grad(), without_adapter(wrapped):
            return answer_states(loaded.model, examples, pad)

    variance = _token_variance(reference_states, references, training_rows)

    def of_step(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        batch = sorted(batches[step], key=lambda number: len(rows[number][0]))
        n_tokens = sum(len(rows[number][0]) - rows[number][1] + 1 for number in batch)
        for start in range(0, len(batch), training_rows):
            numbers = batch[start : start + training_rows]
            targets = reference_states([references[number] for number in numbers])
            states = answer_states(loaded.model, [rows[number] for number in numbers], pad)
            distances = (states - targets).square().sum(-1) / variance
            loss = distances.sum() / (variance.shape[0] * n_tokens)
            yield loss, {"states": float(loss.detach())}

    return of_step


def answer_states(model: Any, examples: Sequence[Example], pad: int) -> Tensor:
    """States after every block, from the token before each answer to its end: [blocks, tokens, D] float32.

    The last block's states are taken after the final norm. Tokens of all examples are concatenated.
    """
    ids, mask = right_padded([tokens for tokens, _ in examples], pad, model.device)
    answers = mask.bool()
    for index, (_, n_prompt) in enumerate(examples):
        answers[index, : n_prompt - 1] = False
    output = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    return torch.stack([states[answers].float() for states in output.hidden_states[1:]])


def _token_variance(
    reference_states: Callable[[Sequence[Example]], Tensor], references: Sequence[Example], training_rows: int
) -> Tensor:
    """Variance of each block's states over tokens, summed over dimensions: [blocks, 1] float32, from float64 sums."""
    numbers = np.random.default_rng(VARIANCE_SEED).permutation(len(references))[:VARIANCE_ROWS]
    n_tokens, total, square = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(numbers), training_rows):
        examples = [references[number] for number in numbers[start : start + training_rows]]
        states = reference_states(examples).double()
        n_tokens += states.shape[1]
        total = total.to(states) + states.sum(1)
        square = square.to(states) + states.square().sum((1, 2))
    return (square / n_tokens - (total / n_tokens).square().sum(-1)).unsqueeze(-1).float()
