"""What ends an answer: tokens, or a text at which it may be cut."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from flatprobe.models.conversation import Conversations


def end_tokens(conversations: Conversations, eos: int | Sequence[int] | None) -> frozenset[int]:
    """Ids of the tokens that end an answer: the template's end of turn and the model's end-of-sequence tokens."""
    ids = [] if eos is None else [eos] if isinstance(eos, int) else eos
    return frozenset([conversations.turn_end, *ids])


def eos_of_files(checkpoint: Path) -> int | list[int] | None:
    """The end-of-sequence tokens of a checkpoint's generation settings; without these, of its configuration."""
    for name in ("generation_config.json", "config.json"):
        path = checkpoint / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8"))
            eos: int | list[int] | None = settings.get(
                "eos_token_id", settings.get("text_config", {}).get("eos_token_id")
            )
            return eos
    return None


class StopText:
    """Finds the token that completes a text, in any case, in a growing answer.

    Attributes:
        overlap: how many earlier tokens may belong to a text that a new token completes.
    """

    def __init__(self, text: str, decode: Callable[[Sequence[int]], str]) -> None:
        self._text, self._decode = text.lower(), decode
        self.overlap = len(text.encode())  # a token is at least one byte

    def end(self, tokens: Sequence[int], new: int) -> int | None:
        """Number of tokens up to the text's end, or None. Only the last `new` tokens were not searched before."""
        if not self._contains(tokens[max(0, len(tokens) - new - self.overlap) :]):
            return None
        return bisect_left(range(len(tokens)), True, key=lambda end: self._contains(tokens[:end]))

    def _contains(self, tokens: Sequence[int]) -> bool:
        return self._text in self._decode(tokens).lower()
