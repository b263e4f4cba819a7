"""Does the engine apply the right adapter? Compares scores of a fixed text before, with and after the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.errors import UserError
from flatprobe.facts import CanaryFacts
from flatprobe.generation.engine import Engine
from flatprobe.models.conversation import Conversations, Prompt

TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class Canary:
    """A fixed text after two prompts. Readings are comparable between stages with the same prompts."""

    contexts: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, conversations: Conversations, prompts: Sequence[Prompt]) -> Canary:
        contexts = tuple(tuple(conversations.encode_prompt(prompt)) for prompt in (prompts[0], prompts[-1]))
        return cls(contexts, (tuple(conversations.encode(TEXT)),) * len(contexts))

    def read(self, engine: Engine) -> list[float] | str:
        """The engine's log P of every token, in nats; or its reason for having none."""
        try:
            rows = engine.log_probabilities(self.contexts, self.targets)
        except UserError as error:
            return str(error)
        return [value for row in rows for value in row]


def change(before: Sequence[float] | str, after: Sequence[float] | str) -> float | None:
    """The largest |difference| between two readings, in nats; None if the engine refused one."""
    if isinstance(before, str) or isinstance(after, str):
        return None
    return max(abs(a - b) for a, b in zip(before, after, strict=True))


def canary_facts(base: list[float] | str, adapted: list[float] | str, base_again: list[float] | str) -> CanaryFacts:
    """Facts of one adapter: its change of the base, the base's change afterwards, and its own reading."""
    return CanaryFacts(
        max_log_p_change=change(base, adapted),
        base_again_change=change(base, base_again),
        reading=adapted if isinstance(adapted, str) else [round(value, 6) for value in adapted],
    )


def smallest_change(adapters: Sequence[CanaryFacts], study: Sequence[CanaryFacts]) -> float | None:
    """The smallest difference that tells an adapter from its base and from any other adapter.

    Args:
        adapters: canary facts of the adapters to check.
        study: canary facts of all adapters of the study, including these.

    Returns:
        Nats. Changes of the base are reduced by its change between two readings, to 0 at least. 0 if two adapters read
        the same; None without a reading.
    """
    differences = []
    for canary in adapters:
        if canary.max_log_p_change is None or canary.base_again_change is None:
            return None
        differences.append(max(0.0, canary.max_log_p_change - canary.base_again_change))
        readings = [other.reading for other in study if other is not canary]
        comparable = [reading for reading in readings if len(reading) == len(canary.reading)]
        changes = (change(canary.reading, reading) for reading in comparable)
        differences += [value for value in changes if value is not None]
    return min(differences, default=None)
