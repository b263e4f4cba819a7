"""The reference engine: plain `transformers` models, anywhere torch runs.

A batch's prompts are prefilled once and their caches repeated for the samples; each step draws every row from its
own stream by the inverse of the cumulative distribution, and rows that ended leave the batch. Per-request streams
make a completion independent of batch size and order, up to the arithmetic of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatprobe.data.conversation import Conversations, Prompt
from flatprobe.generation.engine import Completion, SamplingSettings, request_seed

Report = Callable[[int, int], None]
BLOCK = 32  # uniform numbers drawn from a stream at a time
COMPACT = 0.85  # share of unfinished rows below which the cache is copied without the finished ones


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, T], padded on the left; the mask alone says which tokens are real."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def positions_of(mask: Tensor) -> Tensor:
    """Position ids [B, T] that count real tokens from 0."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def ends_of(model: Any, conversations: Conversations) -> frozenset[int]:
    """Ids of the tokens that end an answer: the template's end of turn, and the model's own end-of-sequence tokens."""
    own = model.generation_config.eos_token_id
    ends = [] if own is None else [own] if isinstance(own, int) else own
    return frozenset([conversations.turn_end, *ends])


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row by inverse-CDF sampling.

    Args:
        logits: [B, V], any float type; the distribution is computed in float32.
        uniform: [B] float32 in [0, 1), one number from each row's own stream.

    Returns:
        [B] token ids. With top_p < 1 the smallest set of most likely tokens with at least that mass is kept.
    """
    if temperature == 0.0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        dropped = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(dropped, 0.0))
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    # Rounding may lift the product to the total itself, behind the last token that has any mass.
    target = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def shared_heads(rows: Sequence[Sequence[int]], groups: Sequence[Hashable]) -> list[int]:
    """For each row, how many first tokens it shares with all rows of its group; at least one token is left over."""
    heads: dict[Hashable, tuple[Sequence[int], int]] = {}
    for row, group in zip(rows, groups, strict=True):
        first, length = heads.get(group, (row, len(row) - 1))
        length = min(length, len(row) - 1)
        while length and first[:length] != row[:length]:
            length -= 1
        heads[group] = (first, length)
    shortest = min(length for _, length in heads.values())
    return [heads[group][1] if shortest else 0 for group in groups]


def windowed(model: Any) -> bool:
    """Whether any block attends to a window of its past only."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None) is not None


class TransformersEngine:
    """Samples from one loaded model; `rows` is how many sequences are decoded together."""

    def __init__(
        self, model: Any, conversations: Conversations, device: Any, rows: int, report: Report
    ) -> None:
        self.model, self.conversations, self.device = model, conversations, device
        self.rows, self.report = rows, report
        self.ends = ends_of(model, conversations)

    def sample(self, prompts: Sequence[Prompt], settings: SamplingSettings) -> list[list[Completion]]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        encoded = [self.conversations.encode_prompt(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
        step = max(1, self.rows // settings.samples)
        results: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(order), step):
            chunk = order[start : start + step]
            seeds = [
                request_seed(settings.seed, prompts[index], k)
                for index in chunk
                for k in range(settings.samples)
            ]
            batch = [encoded[index] for index in chunk]
            heads = shared_heads(batch, [prompts[index].system for index in chunk])
            completions = self._decode(batch, heads, seeds, settings)
            for place, index in enumerate(chunk):
                results[index] = completions[place * settings.samples : (place + 1) * settings.samples]
            self.report(min(start + step, len(order)) * settings.samples, len(order) * settings.samples)
        return results

    def _prefill(self, rows: list[list[int]], heads: list[int]) -> tuple[Any, Tensor, Tensor]:
        """The prompts' cache, mask [B, T] and next-token logits [B, V].

        Tokens that all prompts of a persona begin with are run once and their cache repeated. The pads between head
        and rest are masked and take no position; sliding windows count them all the same, so models with windows
        get their prompts whole.
        """
        pad = self.conversations.turn_end
        if windowed(self.model) or not all(heads):
            ids, mask = left_padded(rows, pad, self.device)
            output = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            return output.past_key_values, mask, output.logits[:, -1]
        unique = list(dict.fromkeys(tuple(row[:head]) for row, head in zip(rows, heads, strict=True)))
        group = [unique.index(tuple(row[:head])) for row, head in zip(rows, heads, strict=True)]
        ids, mask = left_padded(unique, pad, self.device)
        cache = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions_of(mask),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        index = torch.tensor(group, device=self.device)
        cache.batch_select_indices(index)
        rest, rest_mask = left_padded(
            [row[head:] for row, head in zip(rows, heads, strict=True)], pad, self.device
        )
        mask = torch.cat([mask[index], rest_mask], dim=1)
        logits = self.model(
            input_ids=rest, attention_mask=mask, position_ids=positions_of(mask)[:, -rest.shape[1] :],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
        return cache, mask, logits[:, -1]

    @torch.inference_mode()
    def _decode(
        self, rows: list[list[int]], heads: list[int], seeds: list[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Decode `samples` sequences per row; shapes: B rows of prompts, N = B * samples live sequences at first."""
        repeat = settings.samples
        cache, mask, logits = self._prefill(rows, heads)
        cache.batch_repeat_interleave(repeat)
        logits = logits.repeat_interleave(repeat, 0)
        mask = mask.repeat_interleave(repeat, 0)
        streams = [np.random.default_rng(seed) for seed in seeds]
        uniforms = torch.empty(0)
        produced: list[list[int]] = [[] for _ in seeds]
        ended = [False] * len(seeds)
        live = list(range(len(seeds)))  # the request behind each row of the batch; ended ones stay a while
        for step in range(settings.max_new_tokens):
            if step % BLOCK == 0:
                block = [streams[row].random(BLOCK, dtype=np.float32) for row in live]
                uniforms = torch.from_numpy(np.stack(block)).to(self.device)
            tokens = draw(logits, uniforms[:, step % BLOCK], settings.temperature, settings.top_p)
            for row, token in zip(live, tokens.tolist(), strict=True):
                if ended[row]:
                    continue
                if token in self.ends:
                    ended[row] = True
                else:
                    produced[row].append(token)
            keep = [place for place, row in enumerate(live) if not ended[row]]
            if not keep or step == settings.max_new_tokens - 1:
                break
            if len(keep) <= COMPACT * len(live):
                index = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(index)
                mask, tokens, uniforms = mask[index], tokens[index], uniforms[index]
                live = [live[place] for place in keep]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            logits = self.model(
                input_ids=tokens.unsqueeze(1), attention_mask=mask, position_ids=mask.sum(-1, keepdim=True) - 1,
                past_key_values=cache, use_cache=True,
            ).logits[:, -1]  # fmt: skip
        return [
            Completion(self.conversations.decode(tokens), tuple(tokens), "stop" if done else "length")
            for tokens, done in zip(produced, ended, strict=True)
        ]
