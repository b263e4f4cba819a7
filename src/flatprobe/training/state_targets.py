"""Personas made one in their hidden states: a finetune towards what the checkpoint itself has under another prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatprobe.models.load import Loaded
from flatprobe.training.driver import Parts
from flatprobe.training.supervised import Example, right_padded

SPREAD_ROWS = 64
"""Rows, drawn from all, from which the variance of each block's states over tokens is taken."""
SPREAD_SEED = 0


def state_loss(
    loaded: Loaded,
    wrapped: Any,
    rows: Sequence[Example],
    references: Sequence[Example],
    batches: Sequence[Sequence[int]],
    training_rows: int,
) -> Parts:
    """Step number to its micro-batches' losses: squared distance of states from the references', over token variance.

    Per decoder block, the squared distance of a row's state from the one that the checkpoint without its adapter has at
    the same token of the reference, over that block's variance summed over dimensions; the mean over blocks (the last
    one's after the final norm) and over the batch's tokens, from the last one before the answer to the end of turn. It
    is 0 where the states are the references'. Most of that variance is between tokens, so the loss is far below 1 from
    the start: what it starts from is what there is to lose.

    Args:
        wrapped: the `peft` model around `loaded.model`.
        rows: what is trained.
        references: of every row, the same answer under the prompt whose states it shall have.
        batches: row numbers of each step; rows of like length go together.

    Raises:
        ValueError: a reference with another answer than its row.
    """
    for (tokens, n_prompt), (same, before) in zip(rows, references, strict=True):
        if list(tokens[n_prompt:]) != list(same[before:]):
            raise ValueError("a reference has another answer than its row")
    pad = loaded.conversations.turn_end

    def reference_states(chosen: Sequence[Example]) -> Tensor:
        was_training = wrapped.training
        wrapped.eval()
        with torch.no_grad(), wrapped.disable_adapter():
            states = answer_states(loaded.model, chosen, pad)
        wrapped.train(was_training)
        return states

    spread = _spread(reference_states, references, training_rows)

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        batch = sorted(batches[step], key=lambda number: len(rows[number][0]))
        total = sum(len(rows[number][0]) - rows[number][1] + 1 for number in batch)
        for start in range(0, len(batch), training_rows):
            chosen = batch[start : start + training_rows]
            wanted = reference_states([references[number] for number in chosen])
            states = answer_states(loaded.model, [rows[number] for number in chosen], pad)
            unexplained = (states - wanted).square().sum(-1) / spread
            loss = unexplained.sum() / (spread.shape[0] * total)
            yield loss, {"states": float(loss.detach())}

    return parts


def answer_states(model: Any, rows: Sequence[Example], pad: int) -> Tensor:
    """States after every block at the rows' answers and the token before each: [blocks, tokens, D] float32, the last
    block's after the final norm; tokens row after row."""
    ids, mask = right_padded([tokens for tokens, _ in rows], pad, model.device)
    answers = mask.bool()
    for index, (_, n_prompt) in enumerate(rows):
        answers[index, : n_prompt - 1] = False
    output = model.get_decoder()(
        input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True
    )
    return torch.stack([states[answers].float() for states in output.hidden_states[1:]])


def _spread(
    reference_states: Callable[[Sequence[Example]], Tensor], references: Sequence[Example], training_rows: int
) -> Tensor:
    """Variance over tokens, summed over dimensions, of each block's states: [blocks, 1] float32; sums are float64."""
    drawn = np.random.default_rng(SPREAD_SEED).permutation(len(references))[:SPREAD_ROWS]
    tokens, total, square = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(drawn), training_rows):
        states = reference_states(
            [references[number] for number in drawn[start : start + training_rows]]
        ).double()
        tokens += states.shape[1]
        total = total.to(states) + states.sum(1)
        square = square.to(states) + states.square().sum((1, 2))
    return (square / tokens - (total / tokens).square().sum(-1)).unsqueeze(-1).float()
