"""What an engine is: prompts in, completions out, with seeds that belong to each request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from flatprobe.data.conversation import Prompt


@dataclass(frozen=True)
class Completion:
    """One sampled answer; `tokens` excludes the token that ended it."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample; `temperature` 0 is greedy. `seed` names the stage: request seeds are derived from it."""

    samples: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: str


class Engine(Protocol):
    def sample(self, prompts: Sequence[Prompt], settings: SamplingSettings) -> list[list[Completion]]:
        """`settings.samples` completions for each prompt, in the prompts' order."""
        ...


def request_seed(seed: str, prompt: Prompt, sample_index: int) -> int:
    """The seed of one completion: a function of what it is, not of its place in a batch."""
    text = "\x1f".join((seed, prompt.persona, prompt.question_id, str(sample_index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
