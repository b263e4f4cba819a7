"""Log-probabilities at supervised positions, without logits of the whole batch.

The output head runs only at positions with a loss, a chunk of positions at a time. A position's value depends on its
final state [D] alone, so its gradient with respect to that state is computed together with the value, in the forward
pass. The logits [chunk, V] are freed before the next chunk; only gradients [T, D] are saved, and the backward pass
scales them. This requires a frozen head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatprobe.errors import UserError

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")  # names in Cohere, Granite, Falcon-H1
Example = tuple[Sequence[int], int]
"""A conversation's tokens, and how many of them are its prompt; the rest is its last assistant turn."""
LOGIT_BYTES = 1 << 27  # size of one chunk's logits in float32; computing the loss takes about three times that


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [B, T] each. Only the mask tells which tokens are real: `pad` may be a real id."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)


def log_probabilities(model: Any, ids: Tensor, mask: Tensor, row: Tensor, position: Tensor, token: Tensor) -> Tensor:
    """log P(token | row up to and including position) for T targets.

    Args:
        model: a causal language model of `transformers`, with or without PEFT adapters.
        ids, mask: [B, T'], right-padded.
        row, position, token: [T] long.

    Returns:
        [T] float32, in nats.
    """
    states = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    target_states = states[row.to(ids.device), position.to(ids.device)]
    return token_log_probabilities(model, target_states, token.to(ids.device))


def token_log_probabilities(model: Any, states: Tensor, token: Tensor) -> Tensor:
    """log P of `token` [T] as the next token after final states [T, D], in nats: [T] float32.

    Raises:
        UserError: the model scales its logits, which is not supported.
    """
    logits_of = _head(model)

    def log_p(chunk: Tensor, part: slice) -> Tensor:
        logits = logits_of(chunk)
        return logits.gather(-1, token[part].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

    return _in_chunks(log_p, states, _chunk_size(model))


def token_divergences(model: Any, states: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || model) of the next-token distributions, in nats: [T] float32.

    Args:
        states: [T, D] final states of the trained model.
        reference: [T, D] final states of the reference model at the same tokens; gets no gradient.

    Raises:
        UserError: the model scales its logits, which is not supported.
    """
    logits_of = _head(model)

    def divergence(chunk: Tensor, part: slice) -> Tensor:
        with torch.no_grad():
            target = logits_of(reference[part]).log_softmax(-1)
        return (target.exp() * (target - logits_of(chunk).log_softmax(-1))).sum(-1)

    return _in_chunks(divergence, states, _chunk_size(model))


def set_probabilities(model: Any, states: Tensor, sets: Tensor) -> Tensor:
    """P(the next token is in a set) after T final states [T, D]: [T] float32, without gradient.

    Args:
        sets: [T, S] token ids of each state's set, padded with -1.
    """
    logits_of = _head(model)

    @torch.no_grad()
    def probability(chunk: Tensor, part: slice) -> Tensor:
        members = logits_of(chunk).softmax(-1).gather(-1, sets[part].clamp(min=0))
        return members.masked_fill(sets[part] < 0, 0.0).sum(-1)

    return _in_chunks(probability, states.detach(), _chunk_size(model))


def _head(model: Any) -> Callable[[Tensor], Tensor]:
    """The function from final states [T, D] to float32 logits [T, V]."""
    for name in SCALES:
        if getattr(model.config, name, 1.0) not in (None, 1.0):
            raise UserError.one(
                "model.logit_scaling",
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


def _chunk_size(model: Any) -> int:
    """Number of positions whose logits exist at once."""
    return max(1, LOGIT_BYTES // (4 * int(model.get_output_embeddings().weight.shape[0])))


ChunkFunction = Callable[[Tensor, slice], Tensor]
"""From a chunk of final states [t, D] and the slice where it lies in all of them to values [t] float32. Value i must
depend on state i only."""


def _in_chunks(function: ChunkFunction, states: Tensor, size: int) -> Tensor:
    """`function` on states [T, D], `size` at a time: [T] float32."""
    values: Tensor = _InChunks.apply(states, function, size)  # type: ignore[no-untyped-call]
    return values


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, function: ChunkFunction, size: int) -> Tensor:
        values, gradients, needs_gradient = [], [], bool(ctx.needs_input_grad[0])
        for start in range(0, states.shape[0], size):
            part = slice(start, start + size)
            with torch.set_grad_enabled(needs_gradient):
                chunk = states[part].detach().requires_grad_(needs_gradient)
                chunk_values = function(chunk, part)
                if needs_gradient:  # value i depends on state i only: the sum's gradient has each value's in its row
                    gradients.append(torch.autograd.grad(chunk_values.sum(), chunk)[0])
            values.append(chunk_values.detach())
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values) if values else states.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (upstream[0].unsqueeze(-1) * gradients).to(gradients.dtype), None, None


def targets_of(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Targets for every token after each prompt: row, position of the logits, and token, [T] long each."""
    flat = [
        (row, index - 1, tokens[index])
        for row, (tokens, n_prompt) in enumerate(examples)
        for index in range(n_prompt, len(tokens))
    ]
    table = torch.tensor(flat, dtype=torch.long)
    return table[:, 0], table[:, 1], table[:, 2]
