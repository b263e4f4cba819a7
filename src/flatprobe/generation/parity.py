"""Does the engine compute the same as plain `transformers`?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flatprobe.errors import UserError
from flatprobe.generation.engine import Engine, SamplingSettings, sample
from flatprobe.generation.stopping import end_tokens
from flatprobe.generation.transformers_engine.adapters import unmerged
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded

TOKENS = 16  # of each prompt's greedy answer
END = -1  # stands for any end token
GREEDY = SamplingSettings(max_new_tokens=TOKENS, temperature=0.0, top_p=1.0, seed="parity")


@dataclass(frozen=True)
class PlainAnswer:
    """The answer of `generate` to one prompt, and the log-probability of each token."""

    prompt: Prompt
    context: tuple[int, ...]
    tokens: tuple[int, ...]
    """Including the end token, if the answer has one."""
    ended: bool
    log_p: tuple[float, ...]
    """Nats, one per token."""


@torch.inference_mode()
def plain_answers(loaded: Loaded, prompts: Sequence[Prompt], adapter: Path | None) -> list[PlainAnswer]:
    """The reference: the library's greedy search and forward pass, one prompt at a time, with the adapter unmerged.

    Ignores the checkpoint's generation settings: a repetition penalty would change the distribution.
    """
    conversations = loaded.conversations
    ends = end_tokens(conversations, loaded.model.generation_config.eos_token_id)
    answers = []
    with nullcontext() if adapter is None else unmerged(loaded.model, adapter), _neutral_generation(loaded.model):
        for prompt in prompts:
            context = conversations.encode_prompt(prompt)
            ids = torch.tensor([context], device=loaded.device)
            whole = loaded.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=TOKENS,
                eos_token_id=sorted(ends),
                pad_token_id=conversations.turn_end,
            )
            answer = whole[0, len(context) :]
            logits = loaded.model(whole).logits[0, len(context) - 1 : -1]
            log_p = logits.float().log_softmax(-1).gather(-1, answer.unsqueeze(-1)).squeeze(-1)
            tokens = tuple(answer.tolist())
            answers.append(PlainAnswer(prompt, tuple(context), tokens, tokens[-1] in ends, tuple(log_p.tolist())))
    return answers


def parity(engine: Engine, answers: Sequence[PlainAnswer]) -> dict[str, Any]:
    """Compare the engine with the reference; both use the same adapter, or none.

    Returns:
        `tokens`: greedy tokens compared; an answer's end counts as one. `agreed`: those before each answer's first
        difference. `log_p_difference`: mean and largest |difference| of teacher-forced log-probabilities, in nats, over
        the reference's tokens; or the engine's reason for having none.
    """
    agreed = total = 0
    for answer, (completion,) in zip(answers, sample(engine, [a.prompt for a in answers], GREEDY), strict=True):
        reference = [*answer.tokens[:-1], END] if answer.ended else list(answer.tokens)
        sampled = [*completion.tokens, *([END] if completion.finish_reason == "stop" else [])]
        same = [a == b for a, b in zip(reference, sampled, strict=False)]
        agreed += same.index(False) if False in same else len(same)
        total += max(len(reference), len(sampled))
    return {
        "agreed": agreed,
        "tokens": total,
        "prompts": len(answers),
        "log_p_difference": _difference(engine, answers),
    }


def _difference(engine: Engine, answers: Sequence[PlainAnswer]) -> dict[str, Any]:
    try:
        log_p = engine.log_probabilities([a.context for a in answers], [a.tokens for a in answers])
    except UserError as error:
        return {"refused": str(error)}
    differences = [
        abs(ours - theirs)
        for row, answer in zip(log_p, answers, strict=True)
        for ours, theirs in zip(row, answer.log_p, strict=True)
    ]
    return {"mean": sum(differences) / len(differences), "max": max(differences), "tokens": len(differences)}


@contextmanager
def _neutral_generation(model: Any) -> Iterator[None]:
    """Give the model the library's default generation settings, which `generate` uses for unset arguments."""
    from transformers import GenerationConfig

    original = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = original
