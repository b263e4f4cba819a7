"""What an engine is: requests in, completions out as they finish, with seeds that belong to each request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from flatprobe.models.conversation import Prompt

FinishReason = Literal["stop", "length", "marker"]
"""An end-of-turn token; the limit of new tokens; the text that `SamplingSettings.stop_at` names."""


@dataclass(frozen=True)
class Request:
    """One completion that is wanted."""

    prompt: Prompt
    sample_index: int


@dataclass(frozen=True)
class Completion:
    """One sampled answer; `tokens` excludes the token that ended it, and `text` is what they decode to."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample; `temperature` 0 is greedy. `seed` names the stage: request seeds are derived from it."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: str
    stop_at: str | None = None
    """Text (in any case) with which a completion is over; None lets every completion run to its own end."""


class Engine(Protocol):
    """Samples from one checkpoint, with or without one adapter of it."""

    name: str

    def use(self, adapter: Path | None) -> None:
        """Compute with a PEFT adapter's folder from now on, or with the checkpoint alone.

        Raises:
            UserError: the adapter is of another base (its shapes do not fit).
        """
        ...

    def stream(
        self, requests: Sequence[Request], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index into `requests`, completion) as completions finish, in any order; every index once.

        Raises:
            UserError: a prompt and `max_new_tokens` do not fit the context, said before anything is sampled.
        """
        ...

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Teacher-forced log P of each target token given its context and the targets before it.

        In nats, of the untempered distribution; contexts and targets are token ids, one pair per row.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader of the completions must know: `name`, `version`, options, and what happened on the way."""
        ...

    def close(self) -> None:
        """Give back the memory."""
        ...


def sample(
    engine: Engine, prompts: Sequence[Prompt], settings: SamplingSettings, samples: int = 1
) -> list[list[Completion]]:
    """All samples of each prompt, in the prompts' order."""
    requests = [Request(prompt, index) for prompt in prompts for index in range(samples)]
    found = dict(engine.stream(requests, settings))
    return [[found[place * samples + index] for index in range(samples)] for place in range(len(prompts))]


def request_seed(seed: str, prompt: Prompt, sample_index: int) -> int:
    """The seed of one completion: a function of what it is, not of its place in a batch."""
    text = "\x1f".join((seed, prompt.persona, prompt.question_id, str(sample_index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
