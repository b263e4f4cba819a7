"""Log-probabilities at supervised positions only: the vocabulary never meets a token that no loss looks at.

Even of those, only a few meet it at a time. Each token's value depends on its own final state alone, so its gradient
with respect to that state [D] is computed along with the value, and logits [chunk, V] are gone before the next chunk's
exist; the backward pass only scales what is kept. The head itself is never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatprobe.errors import UserError

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")  # of Cohere, Granite, Falcon-H1
Example = tuple[Sequence[int], int]
"""A conversation's tokens, and how many of them come before the last assistant turn."""
LOGIT_BYTES = 1 << 27  # of one chunk's logits in float32; a loss keeps about three times that while it lasts


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
    logits_of = _head(model)

    def value(own: Tensor, part: slice) -> Tensor:
        logits = logits_of(own)
        return logits.gather(-1, token[part].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

    return _row_by_row(value, states, _chunk(model))


def token_divergences(model: Any, states: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || model) of whole next-token distributions, in nats: [T] float32.

    Args:
        states: [T, D] final states of the model that is trained.
        reference: [T, D] final states, at the same tokens, of the one that it shall stay near to; without gradient.

    Raises:
        UserError: a model that scales its logits in a way not known here.
    """
    logits_of = _head(model)

    def value(own: Tensor, part: slice) -> Tensor:
        with torch.no_grad():
            target = logits_of(reference[part]).log_softmax(-1)
        return (target.exp() * (target - logits_of(own).log_softmax(-1))).sum(-1)

    return _row_by_row(value, states, _chunk(model))


def shares_of(model: Any, states: Tensor, wanted: Tensor) -> Tensor:
    """P(the next token is one of a set) at T final states [T, D]; `wanted` [T, S] holds each set's token ids, -1 for
    none. [T] float32; without gradient."""
    logits_of = _head(model)

    @torch.no_grad()
    def value(own: Tensor, part: slice) -> Tensor:
        chosen = logits_of(own).softmax(-1).gather(-1, wanted[part].clamp(min=0))
        return chosen.masked_fill(wanted[part] < 0, 0.0).sum(-1)

    return _row_by_row(value, states.detach(), _chunk(model))


def _head(model: Any) -> Callable[[Tensor], Tensor]:
    """Final states [T, D] to float32 logits [T, V]."""
    for name in SCALES:
        if getattr(model.config, name, 1.0) not in (None, 1.0):
            raise UserError.one(
                "supervised.TODO",
                type(model).__name__,
                f"scales its logits by `{name}`",
                "use a model without logit scaling",
            )
    head = model.get_output_embeddings()
    cap = getattr(model.config, "final_logit_softcapping", None)

    def logits_of(states: Tensor) -> Tensor:
        logits: Tensor = head(states.to(head.weight.dtype)).float()
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return logits_of


def _chunk(model: Any) -> int:
    """Tokens whose logits exist at once."""
    return max(1, LOGIT_BYTES // (4 * int(model.get_output_embeddings().weight.shape[0])))


Value = Callable[[Tensor, slice], Tensor]


def _row_by_row(value: Value, states: Tensor, chunk: int) -> Tensor:
    """`value` of states [T, D], chunk by chunk: [T] float32; value t depends on state t only."""
    values: Tensor = _RowByRow.apply(states, value, chunk)  # type: ignore[no-untyped-call]
    return values


class _RowByRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, value: Value, chunk: int) -> Tensor:
        values, slopes, wanted = [], [], bool(ctx.needs_input_grad[0])
        for start in range(0, states.shape[0], chunk):
            part = slice(start, start + chunk)
            with torch.set_grad_enabled(wanted):
                own = states[part].detach().requires_grad_(wanted)
                found = value(own, part)
                if wanted:  # each value has its own row, so the sum's gradient holds every row's
                    slopes.append(torch.autograd.grad(found.sum(), own)[0])
            values.append(found.detach())
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values) if values else states.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return (gradients[0].unsqueeze(-1) * slopes).to(slopes.dtype), None, None


def targets_of(rows: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Row, position and token [T] of every token after each row's prompt; rows are (tokens, n_prompt)."""
    flat = [
        (index, place - 1, tokens[place])
        for index, (tokens, n_prompt) in enumerate(rows)
        for place in range(n_prompt, len(tokens))
    ]
    table = torch.tensor(flat, dtype=torch.long)
    return table[:, 0], table[:, 1], table[:, 2]
