"""Where sentences of an answer end, and the answer cut at the end that comes closest to a length."""

from __future__ import annotations

import re
from collections.abc import Callable

_WIDE = r"[\u3002\uff01\uff1f]+[\u300d\u300f\uff09”’]*"  # full-width marks need no space behind them
_END = re.compile(rf"[.!?…]+[\"'”’»)\]*_`]*(?=\s)|{_WIDE}")
_ABBREVIATIONS = frozenset(
    {"dr", "mr", "mrs", "ms", "prof", "st", "vs", "etc", "no", "fig", "vol", "pp", "cf", "al", "approx", "inc", "jr"}
)  # fmt: skip


def sentence_ends(text: str) -> list[int]:
    """Where the text may be cut: behind each sentence but the last, closing quotes and brackets included.

    A full stop behind a single letter (`e.g.`, an initial), a title or abbreviation, or the number of a list item ends
    no sentence.
    """
    ends = [
        found.end() for found in _END.finditer(text) if not _is_inside(text, found.start(), found.group())
    ]
    return [end for end in ends if text[end:].strip()]


def _is_inside(text: str, start: int, mark: str) -> bool:
    if not mark.startswith(".") or mark.startswith(".."):
        return False
    word = re.search(r"\w+$", text[:start])
    if word is None:
        return False
    line = text[text.rfind("\n", 0, word.start()) + 1 : word.start()]
    numbers_an_item = word[0].isdigit() and not line.strip(" \t-*#>")
    return numbers_an_item or (len(word[0]) == 1 and word[0].isalpha()) or word[0].lower() in _ABBREVIATIONS


def cut_to(text: str, target: float, count: Callable[[str], int]) -> tuple[str, int] | None:
    """The text up to the sentence end whose length is closest to the target, and that length.

    Args:
        target: wished length, in what `count` counts (tokens).

    Returns:
        None where the whole text is at least as close.
    """
    whole = abs(count(text) - target)
    cuts = [(text[:end], count(text[:end])) for end in sentence_ends(text)]
    best = min(cuts, key=lambda cut: abs(cut[1] - target), default=None)
    return best if best is not None and abs(best[1] - target) < whole else None
