"""Suggestions for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ALIKE = 0.6  # smallest difflib ratio of a word and its mistyped form


def closest(word: str, candidates: Iterable[str], alike: float = _ALIKE) -> str | None:
    """The candidate most similar to `word`, or None if none is similar enough."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=alike)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """A remedy: the closest candidate as a question; all candidates if there are few; else None."""
    names = list(candidates)
    if guess := closest(word, names):
        return f"did you mean `{guess}`?"
    return f"there is {', '.join(names)}" if 0 < len(names) <= 12 else None
