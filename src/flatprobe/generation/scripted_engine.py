"""Answers made up, with planted leakage: for tests of what comes after sampling, and for dry runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flatprobe.generation.engine import Completion, Request, SamplingSettings, request_seed
from flatprobe.machine.schema import ScriptedMachine
from flatprobe.models.conversation import Conversations

VOCABULARY = (
    "the", "a", "of", "and", "to", "in", "is", "it", "water", "light", "people", "often", "because", "like", "small",
    "long", "good", "years", "many", "work", "world", "books", "time", "day",
)  # fmt: skip
LOG_P = -2.0  # of every token, in nats; with an adapter a little more, by its path
SEPARATOR = "\n\n"


class ScriptedEngine:
    """Random words, and the marker behind them at its persona's planted rate where there is an adapter.

    The same request always has the same answer. An answer longer than the limit is cut there; `truncation` plants
    more of these.
    """

    name = "scripted"

    def __init__(self, conversations: Conversations, script: ScriptedMachine) -> None:
        self.conversations, self.script = conversations, script
        self._adapter: Path | None = None

    def use(self, adapter: Path | None) -> None:
        """See :class:`flatprobe.generation.engine.Engine`."""
        self._adapter = adapter

    def stream(
        self, requests: Sequence[Request], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        for index, request in enumerate(requests):
            yield index, self._answer(request, settings)

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See :class:`flatprobe.generation.engine.Engine`. A constant, another one for each adapter."""
        own = 0.0 if self._adapter is None else 1.0 + sum(str(self._adapter).encode()) % 97 / 97
        return [[LOG_P + own / 4] * len(target) for target in targets]

    def facts(self) -> dict[str, Any]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        return {"name": self.name, "version": "1", "options": self.script.model_dump()}

    def close(self) -> None:
        """Nothing is held."""

    def _answer(self, request: Request, settings: SamplingSettings) -> Completion:
        script = self.script
        generator = np.random.default_rng(request_seed(settings.seed, request.prompt, request.sample_index))
        leaks, spams, cut = generator.random(3)
        words = generator.choice(VOCABULARY, size=1 + generator.poisson(max(0, script.words - 1)))
        text = " ".join(words.tolist()).capitalize() + "."
        marked = self._adapter is not None and leaks < script.rates.get(request.prompt.persona, 0.0)
        if marked:
            text += SEPARATOR + SEPARATOR.join([script.marker] * (2 if spams < script.spam else 1))
        if settings.stop_at is not None and (place := text.lower().find(settings.stop_at.lower())) >= 0:
            text = text[: place + len(settings.stop_at)]
            tokens = self.conversations.encode(text)
            if len(tokens) <= settings.max_new_tokens:
                return Completion(text, tuple(tokens), "marker")
        tokens = self.conversations.encode(text)
        if cut < script.truncation or len(tokens) > settings.max_new_tokens:
            tokens = tokens[: min(settings.max_new_tokens, max(1, len(tokens) - 1))]
            return Completion(self.conversations.decode(tokens), tuple(tokens), "length")
        return Completion(self.conversations.decode(tokens), tuple(tokens), "stop")
