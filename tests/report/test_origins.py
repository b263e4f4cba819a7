"""The origin of every number on the page: a function that exists."""

from __future__ import annotations

import importlib
import re

import pytest

from flatprobe.report.origins import ORIGINS


@pytest.mark.parametrize("origin", sorted(set(ORIGINS.values())))
def test_every_origin_can_be_imported(origin: str) -> None:
    module, _, name = origin.partition(":")
    assert callable(getattr(importlib.import_module(f"flatprobe.{module}"), name))


def test_every_table_and_card_of_the_page_names_one_origin(page: str) -> None:
    captions = re.findall(r"<caption.*?</caption>", page, re.DOTALL)
    cards = re.findall(r'<article class="card">.*?</article>', page, re.DOTALL)
    assert (len(captions), len(cards)) == (page.count("<table>"), 2)
    for piece in (*captions, *cards):
        (origin,) = re.findall(r'<code class="origin"[^>]*>([^<]*)</code>', piece)
        assert origin in ORIGINS.values()
