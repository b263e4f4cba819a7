"""Heads of a page's tables, and those that neither the method nor the glossary explains."""

from __future__ import annotations

import html
import re
from pathlib import Path

from flatprobe.report.glossary import HEADS, terms

METHOD = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")


def heads_of(page: str) -> set[str]:
    return {html.unescape(head) for head in re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)}


def words_of(page: str) -> set[str]:
    return {term for head in heads_of(page) for term in terms(head)}


def unexplained(page: str) -> set[str]:
    return {word for word in words_of(page) if word not in HEADS and not _in_method(word)}


def _in_method(word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", METHOD, re.IGNORECASE) is not None
