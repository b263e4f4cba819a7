"""What a mistyped word was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ALIKE = 0.6  # difflib's ratio from which two words count as one mistyped


def closest(word: str, candidates: Iterable[str], alike: float = _ALIKE) -> str | None:
    """The candidate most like `word`, or None where none is alike."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=alike)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """A remedy: the closest candidate as a question, all of them where they are few, else None."""
    known = list(candidates)
    if guess := closest(word, known):
        return f"did you mean `{guess}`?"
    return f"there is {', '.join(known)}" if 0 < len(known) <= 12 else None
