"""Mistyped words come back with the word that was meant."""

from __future__ import annotations

import pytest

from flatprobe.config.suggest import closest, did_you_mean


@pytest.mark.parametrize(
    ("word", "meant"),
    [("marign", "margin"), ("MARGIN", "margin"), ("lumber_jack", "lumberjack"), ("zzz", None), ("", None)],
)
def test_the_closest_word_is_found_whatever_its_case(word: str, meant: str | None) -> None:
    assert closest(word, ["margin", "lumberjack", "level"]) == meant


def test_few_choices_are_listed_if_none_is_similar_and_many_are_not() -> None:
    assert did_you_mean("zzz", ["one", "two"]) == "there is one, two"
    assert did_you_mean("zzz", [f"word{number}" for number in range(50)]) is None
    assert did_you_mean("zzz", []) is None
