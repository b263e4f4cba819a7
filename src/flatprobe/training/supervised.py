"""Log-probabilities at supervised positions only: the vocabulary never meets a token that no loss looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flatprobe.errors import UserError

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")  # of Cohere, Granite, Falcon-H1


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, T], padded on the right; the mask alone says which tokens are real."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)


def log_probabilities(
    model: Any, ids: Tensor, mask: Tensor, row: Tensor, position: Tensor, token: Tensor
) -> Tensor:
    """log P(token | everything up to position) for T targets.

    Args:
        model: a causal language model of `transformers`, with or without PEFT adapters inside its layers.
        ids, mask: [B, T'] right-padded.
        row, position, token: [T] long.

    Returns:
        [T] float32, in nats.
    """
    states = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    wanted = states[row.to(ids.device), position.to(ids.device)]
    return token_log_probabilities(model, wanted, token.to(ids.device))


def token_log_probabilities(model: Any, states: Tensor, token: Tensor) -> Tensor:
    """log P of `token` [T] under the head applied to final states [T, D]; float32.

    Raises:
        UserError: a model that scales its logits in a way not known here.
    """
    for name in SCALES:
        if getattr(model.config, name, 1.0) not in (None, 1.0):
            raise UserError.one(
                type(model).__name__, f"scales its logits by `{name}`", "use a model without logit scaling"
            )
    head = model.get_output_embeddings()
    logits = head(states.to(head.weight.dtype)).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    log_p: Tensor = logits.gather(-1, token.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    return log_p


def targets_of(rows: Sequence[tuple[Sequence[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Row, position and token [T] of every token after each row's prompt; rows are (tokens, n_prompt)."""
    flat = [
        (index, place - 1, tokens[place])
        for index, (tokens, n_prompt) in enumerate(rows)
        for place in range(n_prompt, len(tokens))
    ]
    table = torch.tensor(flat, dtype=torch.long)
    return table[:, 0], table[:, 1], table[:, 2]
