"""Is the adapter that was asked for the one that computes? Read off fixed texts, before, with and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flatprobe.errors import UserError
from flatprobe.generation.engine import Engine
from flatprobe.models.conversation import Conversations, Prompt

TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class Canary:
    """A text behind two prompts. Stages that ask the same prompts can compare what their adapters read there."""

    contexts: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, conversations: Conversations, prompts: Sequence[Prompt]) -> Canary:
        contexts = tuple(tuple(conversations.encode_prompt(prompt)) for prompt in (prompts[0], prompts[-1]))
        return cls(contexts, (tuple(conversations.encode(TEXT)),) * len(contexts))

    def read(self, engine: Engine) -> list[float] | str:
        """log P of every token, in nats, as the engine computes now; or why it has none."""
        try:
            rows = engine.log_probabilities(self.contexts, self.targets)
        except UserError as error:
            return str(error)
        return [value for row in rows for value in row]


def change(before: Sequence[float] | str, after: Sequence[float] | str) -> float | None:
    """The largest |difference| of two readings, in nats; None where there is one that was refused."""
    if isinstance(before, str) or isinstance(after, str):
        return None
    return max(abs(a - b) for a, b in zip(before, after, strict=True))


def canary_facts(
    base: list[float] | str, adapted: list[float] | str, base_again: list[float] | str
) -> dict[str, Any]:
    """What an adapter changed, whether the base was the same after it, and the reading that no other adapter has."""
    return {
        "max_log_p_change": change(base, adapted), "base_again_change": change(base, base_again),
        "reading": adapted if isinstance(adapted, str) else [round(value, 6) for value in adapted],
    }  # fmt: skip


def told_apart(own: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]]) -> float | None:
    """By how much adapters change what is computed, beyond what the base itself changes between two readings.

    Args:
        own: canary facts of the adapters in question.
        read: those of all adapters of the study, these among them; no two readings may be alike.

    Returns:
        The smallest of these differences, in nats, 0 where two adapters read the same; None where nothing was read.
    """
    found = []
    for canary in own:
        if canary["max_log_p_change"] is None or canary["base_again_change"] is None:
            return None
        found.append(max(0.0, canary["max_log_p_change"] - canary["base_again_change"]))
        others = [other["reading"] for other in read if other is not canary]
        comparable = [other for other in others if len(other) == len(canary["reading"])]
        found += [value for other in comparable if (value := change(canary["reading"], other)) is not None]
    return min(found, default=None)
