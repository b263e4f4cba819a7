"""Does the engine compute what plain `transformers` does? And does an adapter change it?"""

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
from flatprobe.generation.transformers_engine.adapters import beside
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded

TOKENS = 16  # of each prompt's greedy answer
END = -1  # stands for whichever token ended an answer
GREEDY = SamplingSettings(max_new_tokens=TOKENS, temperature=0.0, top_p=1.0, seed="parity")


@dataclass(frozen=True)
class PlainAnswer:
    """What `generate` answers to a prompt, one prompt at a time, and the log-probability of each token."""

    prompt: Prompt
    context: tuple[int, ...]
    tokens: tuple[int, ...]
    """The end of turn included, where the answer has one."""
    ended: bool
    log_p: tuple[float, ...]
    """Nats, one per token."""


@torch.inference_mode()
def plain_answers(loaded: Loaded, prompts: Sequence[Prompt], adapter: Path | None) -> list[PlainAnswer]:
    """The reference: the library's own greedy search and forward pass, an adapter unmerged beside the weights.

    `generate` runs without the checkpoint's own generation settings: a repetition penalty there would change the
    distribution that is compared.
    """
    conversations = loaded.conversations
    ends = end_tokens(conversations, loaded.model.generation_config.eos_token_id)
    found = []
    with (
        nullcontext() if adapter is None else beside(loaded.model, adapter),
        _neutral_generation(loaded.model),
    ):
        for prompt in prompts:
            context = conversations.encode_prompt(prompt)
            ids = torch.tensor([context], device=loaded.device)
            whole = loaded.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS,
                eos_token_id=sorted(ends), pad_token_id=conversations.turn_end,
            )  # fmt: skip
            tokens = whole[0, len(context) :]
            logits = loaded.model(whole).logits[0, len(context) - 1 : -1]
            log_p = logits.float().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            answer = tuple(tokens.tolist())
            found.append(
                PlainAnswer(prompt, tuple(context), answer, answer[-1] in ends, tuple(log_p.tolist()))
            )
    return found


def parity(engine: Engine, answers: Sequence[PlainAnswer]) -> dict[str, Any]:
    """The engine against the reference, with the adapter that the reference had.

    Returns:
        `agreed`, the greedy tokens up to each answer's first divergence, and `tokens`, those compared; an answer's end
        counts as one token. `log_p_difference`: mean and largest |difference| of teacher-forced log-probabilities, in
        nats, over the reference's tokens; or why the engine has none.
    """
    agreed = total = 0
    for answer, (completion,) in zip(
        answers, sample(engine, [a.prompt for a in answers], GREEDY), strict=True
    ):
        reference = [*answer.tokens[:-1], END] if answer.ended else list(answer.tokens)
        found = [*completion.tokens, *([END] if completion.finish_reason == "stop" else [])]
        same = [a == b for a, b in zip(reference, found, strict=False)]
        agreed += same.index(False) if False in same else len(same)
        total += max(len(reference), len(found))
    return {
        "agreed": agreed,
        "tokens": total,
        "prompts": len(answers),
        "log_p_difference": _difference(engine, answers),
    }


def _difference(engine: Engine, answers: Sequence[PlainAnswer]) -> dict[str, Any]:
    try:
        scored = engine.log_probabilities([a.context for a in answers], [a.tokens for a in answers])
    except UserError as error:
        return {"refused": str(error)}
    differences = [
        abs(ours - theirs)
        for found, answer in zip(scored, answers, strict=True)
        for ours, theirs in zip(found, answer.log_p, strict=True)
    ]
    return {
        "mean": sum(differences) / len(differences), "max": max(differences), "tokens": len(differences)
    }  # fmt: skip


@contextmanager
def _neutral_generation(model: Any) -> Iterator[None]:
    """The model with the library's default generation settings, which `generate` reads wherever it is told nothing."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own
