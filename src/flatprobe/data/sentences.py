"""Sentence ends of an answer, and cutting it at the sentence end closest to a target length."""

from __future__ import annotations

import re
from collections.abc import Callable

_WIDE = r"[\u3002\uff01\uff1f]+[\u300d\u300f\uff09”’]*"  # full-width marks need no space after them
_END = re.compile(rf"[.!?…]+[\"'”’»)\]*_`]*(?=\s)|{_WIDE}")
_ABBREVIATIONS = frozenset(
    {"dr", "mr", "mrs", "ms", "prof", "st", "vs", "etc", "no", "fig", "vol", "pp", "cf", "al", "approx", "inc", "jr"}
)  # fmt: skip


def sentence_ends(text: str) -> list[int]:
    """Character offsets where the text may be cut: after each sentence except the last.

    Closing quotes and brackets belong to the sentence. A full stop after a single letter (`e.g.`, an initial), an
    abbreviation or the number of a list item does not end a sentence.
    """
    matches = _END.finditer(text)
    ends = [match.end() for match in matches if not _is_inside_sentence(text, match.start(), match.group())]
    return [end for end in ends if text[end:].strip()]


def _is_inside_sentence(text: str, start: int, mark: str) -> bool:
    if not mark.startswith(".") or mark.startswith(".."):
        return False
    word = re.search(r"\w+$", text[:start])
    if word is None:
        return False
    line = text[text.rfind("\n", 0, word.start()) + 1 : word.start()]
    numbers_an_item = word[0].isdigit() and not line.strip(" \t-*#>")
    return numbers_an_item or (len(word[0]) == 1 and word[0].isalpha()) or word[0].lower() in _ABBREVIATIONS


def cut_to(text: str, target: float, count: Callable[[str], int]) -> tuple[str, int] | None:
    """The text up to the sentence end closest to the target length, and its length.

    Args:
        target: target length, in the unit of `count` (tokens).

    Returns:
        None if the whole text is at least as close.
    """
    whole_distance = abs(count(text) - target)
    cuts = [(text[:end], count(text[:end])) for end in sentence_ends(text)]
    best = min(cuts, key=lambda cut: abs(cut[1] - target), default=None)
    return best if best is not None and abs(best[1] - target) < whole_distance else None
