"""Every head of a table is explained: by the method or by the page's glossary."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from flatprobe.report.glossary import HEADS, meaning, terms

METHOD = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")


def heads_of(page: str) -> set[str]:
    return {html.unescape(head) for head in re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)}


def in_method(term: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(term)}(?!\w)", METHOD, re.IGNORECASE) is not None


def test_every_head_is_a_word_of_the_method_or_of_the_glossary(page: str) -> None:
    words = {term for head in heads_of(page) for term in terms(head)}
    assert len(words) > 80
    assert {word for word in words if word not in HEADS and not in_method(word)} == set()


def test_the_glossary_explains_heads_of_the_page_only(page: str) -> None:
    words = {term for head in heads_of(page) for term in terms(head)}
    # the planted study has no known answers and not every measure
    assert set(HEADS) - words == {"as expected", "cosine difference − translation share"}


def test_heads_show_their_meaning(page: str) -> None:
    assert f'title="{HEADS["tie tolerance"]}">tie tolerance</th>' in page


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("95 % interval", ["interval"]),
        ("p within ±5.0 pp", ["p within"]),
        ("contraction (−log scatter ratio), decides", ["contraction", "decides"]),
        ("training: positive", ["training", "positive"]),
    ],
)
def test_terms_of_a_head_have_no_numbers_and_remarks(head: str, words: list[str]) -> None:
    assert terms(head) == words


def test_a_word_of_the_method_has_no_text_in_the_glossary() -> None:
    assert meaning("persona") is None
    assert meaning("SE") == "standard error"
