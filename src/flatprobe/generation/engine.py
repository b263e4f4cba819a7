"""The protocol of engines: requests in, completions out as they finish, each with its own seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from flatprobe.models.conversation import Prompt

FinishReason = Literal["stop", "length", "marker"]
"""An end token; the limit of new tokens; the text `SamplingSettings.stop_at`."""


@dataclass(frozen=True)
class CompletionRequest:
    """One completion to sample."""

    prompt: Prompt
    sample_index: int


@dataclass(frozen=True)
class Completion:
    """One sampled answer. `tokens` excludes the end token; `text` is their decoded text."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample; `temperature` 0 is greedy. Seeds of requests are derived from `seed`, the stage's name."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: str
    stop_at: str | None = None
    """Text, in any case, that ends a completion; None: nothing but end tokens and the limit ends it."""


class Engine(Protocol):
    """Samples from one checkpoint, with or without one of its adapters."""

    name: str

    def use(self, adapter: Path | None) -> None:
        """Use the PEFT adapter in this folder from now on, or the checkpoint alone.

        Raises:
            UserError: the adapter was trained on another base.
        """
        ...

    def stream(
        self, requests: Sequence[CompletionRequest], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index into `requests`, completion) as completions finish, in any order; every index once.

        Raises:
            UserError: a prompt plus `max_new_tokens` exceeds the context; raised before anything is sampled.
        """
        ...

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Teacher-forced log P of each target token given its context and the targets before it.

        In nats, at temperature 1. Contexts and targets are token ids, one pair per row.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Facts for facts.json: `name`, `version`, options, and events such as restarts."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


def sample(
    engine: Engine, prompts: Sequence[Prompt], settings: SamplingSettings, samples: int = 1
) -> list[list[Completion]]:
    """All samples of each prompt, in the order of the prompts."""
    requests = [CompletionRequest(prompt, index) for prompt in prompts for index in range(samples)]
    completions = dict(engine.stream(requests, settings))
    return [[completions[first + index] for index in range(samples)] for first in range(0, len(requests), samples)]


def request_seed(seed: str, prompt: Prompt, sample_index: int) -> int:
    """Seed of one completion, from its prompt and sample index. It does not depend on the batch."""
    text = "\x1f".join((seed, prompt.persona, prompt.question_id, str(sample_index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
