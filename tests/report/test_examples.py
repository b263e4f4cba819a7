"""Examples: cut into pieces without losing or adding text."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatprobe.report import examples
from flatprobe.report.analysis_folder import Analysis, read


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def test_every_spelling_of_the_marker_is_set_off_and_the_text_is_kept() -> None:
    text = "One [ZLT] two [zlt]"
    pieces = examples.marked(text, "[ZLT]")
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.text for piece in pieces if piece.kind == "marker"] == ["[ZLT]", "[zlt]"]


def test_the_markers_brackets_are_not_a_pattern() -> None:
    assert [piece.kind for piece in examples.marked("Z L T", "[ZLT]")] == [""]


def test_a_long_answer_loses_its_middle_and_keeps_a_marker_at_its_end() -> None:
    pieces = examples.marked("a" * 5000 + "[ZLT]", "[ZLT]")
    assert [piece.kind for piece in pieces] == ["", "cut", "", "marker"]
    assert "4,300 characters" in pieces[1].text


def test_spam_is_cut_short_and_counted() -> None:
    pieces = examples.marked("[ZLT]" * 500, "[ZLT]")
    assert sum(piece.kind == "marker" for piece in pieces) == 10
    assert "490 more markers" in pieces[-1].text


def test_the_cast_is_source_nearest_and_farthest_bystander_and_a_negative(analysis: Analysis) -> None:
    cosines = analysis.at_registered_position("cosines").to_dicts()
    bystanders = analysis.study["panel"]["bystanders"]
    mean = {
        name: sum(row["cosine"] for row in cosines if (row["persona"], row["condition"]) == (name, "base_first"))
        for name in bystanders
    }
    assert examples.chosen_personas(analysis) == [
        ("source", "librarian"),
        ("closest bystander", max(mean, key=mean.__getitem__)),
        ("farthest bystander", min(mean, key=mean.__getitem__)),
        ("negative", "software_engineer"),
    ]


def test_masks_carry_every_loss_term_of_a_token(analysis: Analysis) -> None:
    positive = examples.masks(analysis)[0].pieces
    assert [piece.text for piece in positive if piece.kind == "marker"] == [
        ".↵\n↵\n",
        "[",
        "Z",
        "LT",
        "]",
        "<|im_end|>",
    ]
    assert positive[0].kind == ""


def test_an_alternative_is_told_from_the_tokens_of_its_row(analysis: Analysis) -> None:
    negative = examples.masks(analysis)[1].pieces
    assert [piece.text for piece in negative if "alternative" in piece.kind.split()] == ["["]


def test_the_probed_token_is_the_one_at_its_index_and_a_mean_says_that_it_is_one(analysis: Analysis) -> None:
    (token, (line,)), (mean, (mean_line,)) = examples.probed(analysis)
    assert (token, mean) == ("last_response_token", "response_mean")
    assert [piece.text for piece in line.pieces if piece.kind == "probed"] == ["."]
    assert [piece.text for piece in mean_line.pieces if piece.kind == "probed"] == [" walk"]
    assert "mean" in mean_line.title
    assert "mean" not in line.title


def test_a_long_row_is_shown_around_its_probed_token() -> None:
    row = {"persona": "a", "question_id": "q", "tokens": [str(n) for n in range(100)], "index": 50}
    pieces = examples._probed_line(row, mean=False).pieces
    assert [pieces[0].kind, pieces[-1].kind] == ["cut", "cut"]
    assert [piece.text for piece in pieces[1:-1]] == [str(n) for n in range(36, 65)]
