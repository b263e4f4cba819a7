"""Every head of a table is explained: by the method or by the page's glossary."""

from __future__ import annotations

import pytest
from table_heads import unexplained, words_of

from flatprobe.report.glossary import HEADS, meaning, terms


def test_every_head_is_a_word_of_the_method_or_of_the_glossary(page: str) -> None:
    assert len(words_of(page)) > 80
    assert unexplained(page) == set()


def test_the_glossary_explains_heads_of_the_page_only(page: str) -> None:
    geometry_only = {"difference or ratio", "position and responses"}
    # the planted study has no known answers and not every measure
    elsewhere = {"as expected", "cosine difference − translation share", *geometry_only}
    assert set(HEADS) - words_of(page) == elsewhere


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
