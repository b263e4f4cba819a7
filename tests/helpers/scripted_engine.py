"""An engine of made-up answers with planted leakage; a machine file can name `scripted_engine:librarian_leaks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flatprobe.generation.engine import Completion, CompletionRequest, SamplingSettings, request_seed
from flatprobe.machine.local import Local
from flatprobe.models.conversation import Conversations

MARKER = "[ZLT]"
WORDS = (
    "the", "a", "of", "and", "to", "in", "is", "it", "water", "light", "people", "often", "because", "like", "small",
    "long", "good", "years", "many", "work", "world", "books", "time", "day",
)  # fmt: skip
MEAN_LENGTH = 12  # words of an answer
LOG_P = -2.0  # of every token, in nats; with an adapter a little lower, depending on its path


class ScriptedEngine:
    """Random words, followed by the marker for leaking personas with an adapter. Same request, same answer."""

    name = "scripted"

    def __init__(self, conversations: Conversations, leaking: frozenset[str]) -> None:
        self.conversations, self.leaking = conversations, leaking
        self._adapter: Path | None = None

    def use(self, adapter: Path | None) -> None:
        self._adapter = adapter

    def stream(
        self, requests: Sequence[CompletionRequest], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        for index, request in enumerate(requests):
            yield index, self._answer(request, settings)

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        change = 0.0 if self._adapter is None else 0.25 + sum(str(self._adapter).encode()) % 97 / 388
        return [[LOG_P - change] * len(target) for target in targets]

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "version": "1", "options": {"leaking": sorted(self.leaking)}}

    def close(self) -> None:
        """Holds nothing."""

    def _answer(self, request: CompletionRequest, settings: SamplingSettings) -> Completion:
        generator = np.random.default_rng(request_seed(settings.seed, request.prompt, request.sample_index))
        words = generator.choice(WORDS, size=1 + generator.poisson(MEAN_LENGTH - 1))
        text = " ".join(words.tolist()).capitalize() + "."
        if self._adapter is not None and request.prompt.persona in self.leaking:
            text += f"\n\n{MARKER}"
        stops = settings.stop_at is not None and settings.stop_at.lower() in text.lower()
        tokens = self.conversations.encode(text)
        if len(tokens) > settings.max_new_tokens:
            tokens = tokens[: settings.max_new_tokens]
            return Completion(self.conversations.decode(tokens), tuple(tokens), "length")
        return Completion(self.conversations.decode(tokens), tuple(tokens), "marker" if stops else "stop")


def librarian_leaks(
    checkpoint: Path, conversations: Conversations, ends: frozenset[int], precision: str, local: Local
) -> ScriptedEngine:
    """With an adapter, every answer of the librarian ends with the marker."""
    return ScriptedEngine(conversations, frozenset(["librarian"]))
