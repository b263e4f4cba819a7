"""Where an answer is over: the tokens that end it, and the text at which it may be cut."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from flatprobe.models.conversation import Conversations


def ends_of_files(checkpoint: Path, conversations: Conversations) -> frozenset[int]:
    """Ids of the tokens that end an answer, for a checkpoint whose model is not loaded here.

    The template's end of turn, and the end-of-sequence tokens of the generation settings, or of the configuration
    where a checkpoint has no generation settings.
    """
    for name in ("generation_config.json", "config.json"):
        path = checkpoint / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8"))
            own = settings.get("eos_token_id", settings.get("text_config", {}).get("eos_token_id"))
            break
    else:
        own = None
    return frozenset(
        [conversations.turn_end, *([] if own is None else [own] if isinstance(own, int) else own)]
    )


class Stop:
    """Finds the token that completes a text, in any case, in an answer that grows.

    Attributes:
        overlap: how many tokens before a new one may belong to a text that the new one completes.
    """

    def __init__(self, text: str, decode: Callable[[Sequence[int]], str]) -> None:
        self._text, self._decode = text.lower(), decode
        self.overlap = len(text.encode())  # a token is a byte at least

    def place(self, tokens: Sequence[int], new: int) -> int | None:
        """How many tokens there are up to the text's end, or None; the last `new` have not been looked at before."""
        if not self._contains(tokens[max(0, len(tokens) - new - self.overlap) :]):
            return None
        return bisect_left(range(len(tokens)), True, key=lambda end: self._contains(tokens[:end]))

    def _contains(self, tokens: Sequence[int]) -> bool:
        return self._text in self._decode(tokens).lower()
