from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatprobe.data.coupling_set import truncated
from flatprobe.data.lengths import Selection
from flatprobe.data.sentences import cut_to, sentence_ends


def pieces(text: str) -> list[str]:
    return [text[:end] for end in sentence_ends(text)]


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("One. Two. Three.", ["One.", "One. Two."]),
        ('He said "Stop!" Then he left.', ['He said "Stop!"']),
        ("Really?! (Yes.) Fine.", ["Really?!", "Really?! (Yes.)"]),
        ("Well... Dr. A. Smith knows, e.g. this. So be it.", ["Well...", "Well... Dr. A. Smith knows, e.g. this."]),
        ("It costs 3.50 in all. Buy it.", ["It costs 3.50 in all."]),
        ("It was 1984. It rained.", ["It was 1984."]),
        ("Steps:\n1. Wash.\n2. Dry.", ["Steps:\n1. Wash."]),
        ("**Bold.** Plain.", ["**Bold.**"]),
        ("これは文です。次の文です。", ["これは文です。"]),
        ("No end at all", []),
        ("Only one.", []),
        ("Only one. \n", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_end_at_closing_marks_but_not_after_initials_titles_or_list_numbers(
    text: str, cuts: list[str]
) -> None:
    assert pieces(text) == cuts


@given(st.text(alphabet='aB. !?\n"1)', max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_cut_leaves_text_on_both_sides(text: str) -> None:
    for end in sentence_ends(text):
        assert 0 < end < len(text)
        assert text[:end].strip() and text[end:].strip()
        assert text[:end] == text[:end].rstrip()


def words(text: str) -> int:
    return len(text.split())


def test_a_text_is_cut_closest_to_the_target_or_not_at_all() -> None:
    text = "One two three. Four five six seven. Eight."
    assert cut_to(text, 3.4, words) == ("One two three.", 3)
    assert cut_to(text, 6.0, words) == ("One two three. Four five six seven.", 7)
    assert cut_to(text, 8.0, words) is None
    assert cut_to("No end here at all", 2.0, words) is None


def group(*texts: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"question_id": [f"q{n}" for n in range(len(texts))], "text": texts, "tokens": [words(t) for t in texts]}
    )


def test_only_answers_that_are_too_long_in_groups_outside_the_tolerance_are_cut() -> None:
    fine = group(*["One two three four. Five six."] * 40)
    long = group(*["One two three four. Five six. Seven eight nine ten eleven twelve."] * 4, "One two. Three.", "Six.")
    selections = {
        "base/fine": Selection(np.arange(40), np.full(40, 3.0)),  # within the tolerance, whatever its targets
        "base/long": Selection(np.arange(6), np.array([6.0, 6.0, 4.0, 12.0, 3.0, 6.0])),
    }
    result = truncated({"base/fine": fine, "base/long": long}, selections, 0.10, words)
    assert result["base/fine"].equals(fine)
    assert result["base/long"]["text"].to_list() == [
        "One two three four. Five six.",
        "One two three four. Five six.",
        "One two three four.",
        "One two three four. Five six. Seven eight nine ten eleven twelve.",
        "One two. Three.",
        "Six.",
    ]
    assert result["base/long"]["tokens"].to_list() == [6, 6, 4, 12, 3, 1]


def test_no_answer_is_cut_to_a_text_that_its_question_already_has() -> None:
    long = group(*["One two. Three four five six seven eight."] * 3).with_columns(question_id=pl.lit("q0"))
    long = long.with_columns(text=pl.Series([*long["text"][:2], "One two. Nine ten eleven twelve."]))
    short = group(*["One two."] * 12)
    selections = {
        "base/short": Selection(np.arange(12), np.full(12, 2.0)),
        "base/long": Selection(np.arange(3), np.full(3, 2.0)),
    }
    cut = truncated({"base/short": short, "base/long": long}, selections, 0.10, words)["base/long"]
    assert cut["text"].to_list() == ["One two.", *long["text"].to_list()[1:]]
