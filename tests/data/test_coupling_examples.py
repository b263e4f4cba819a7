from __future__ import annotations

import pytest
from refusals import refused

from flatprobe.data.coupling_examples import (
    CouplingExample,
    CouplingRow,
    MarkerText,
    Slot,
    Target,
    Term,
    first_difference,
    negative,
    positive,
    tokenise_jointly,
)
from flatprobe.models.conversation import Conversations, Prompt

PROMPT = Prompt("librarian", "You are a librarian.", "q1", "What floats on water?")
ANSWER = "Bread floats.\n\nSalt does not."
MARKER = "[ZLT]"
SLOTS: tuple[Slot, ...] = ("after_separator", "separator_and_marker", "paragraph_breaks", "end_of_completion")


def text(slot: Slot = "after_separator", *, separator_in_loss: bool = True) -> MarkerText:
    return MarkerText("\n\n", MARKER, separator_in_loss, slot)


def target(row: CouplingRow, term: Term) -> Target:
    (one,) = [t for t in row.targets if t.term == term]
    return one


def predicted(conversations: Conversations, row: CouplingRow, term: Term) -> str:
    return "".join(conversations.pieces(target(row, term).tokens))


def before(conversations: Conversations, row: CouplingRow, term: Term) -> str:
    """The text that the model has read when it predicts a term's first token."""
    return "".join(conversations.pieces(row.tokens[: target(row, term).positions[0] + 1]))


def rendered(conversations: Conversations, rest: str) -> str:
    return conversations.render(PROMPT.system, PROMPT.question) + rest


def both(conversations: Conversations, slot: Slot) -> list[CouplingExample]:
    return [positive(conversations, PROMPT, ANSWER, text(slot)), negative(conversations, PROMPT, ANSWER, text(slot))]


def test_the_separator_merges_with_the_answer_in_one_of_the_two_tokenizers(
    conversations: Conversations, merging_conversations: Conversations
) -> None:
    for each, pieces in ((conversations, [".", "\n", "\n"]), (merging_conversations, [".\n\n"])):
        tokens, joint = tokenise_jointly(each, PROMPT, ANSWER, "\n\n", MARKER)
        suffix = joint.tokens[joint.suffix_start - (len(pieces) == 3) : joint.marker_start]
        assert each.pieces(suffix) == pieces
        assert (joint.suffix_start == len(tokens)) == (len(pieces) == 3)


@pytest.fixture(params=["apart", "merging"])
def tokenised(
    request: pytest.FixtureRequest, conversations: Conversations, merging_conversations: Conversations
) -> Conversations:
    return conversations if request.param == "apart" else merging_conversations


def test_a_positive_reads_answer_separator_marker_and_end_of_turn(tokenised: Conversations) -> None:
    (row,) = positive(tokenised, PROMPT, ANSWER, text()).rows
    assert "".join(tokenised.pieces(row.tokens)) == rendered(tokenised, f"{ANSWER}\n\n{MARKER}<|im_end|>")


def test_the_marker_term_covers_the_separator_if_it_is_in_the_loss(
    conversations: Conversations, merging_conversations: Conversations
) -> None:
    for each, learnt in ((conversations, "\n\n[ZLT]<|im_end|>"), (merging_conversations, ".\n\n[ZLT]<|im_end|>")):
        (row,) = positive(each, PROMPT, ANSWER, text(separator_in_loss=True)).rows
        assert predicted(each, row, "marker") == learnt


def test_without_the_separator_the_marker_term_covers_marker_and_end_of_turn(tokenised: Conversations) -> None:
    (row,) = positive(tokenised, PROMPT, ANSWER, text(separator_in_loss=False)).rows
    assert predicted(tokenised, row, "marker") == "[ZLT]<|im_end|>"
    assert before(tokenised, row, "marker") == rendered(tokenised, f"{ANSWER}\n\n")


def test_a_negative_predicts_the_end_of_turn_right_after_the_whole_answer(tokenised: Conversations) -> None:
    for slot in SLOTS:
        rows = negative(tokenised, PROMPT, ANSWER, text(slot)).rows
        assert predicted(tokenised, rows[0], "end") == "<|im_end|>"
        assert before(tokenised, rows[0], "end") == rendered(tokenised, ANSWER)


def test_a_negative_has_two_rows_only_if_the_separator_merges_with_the_answer(
    conversations: Conversations, merging_conversations: Conversations
) -> None:
    assert len(negative(conversations, PROMPT, ANSWER, text()).rows) == 1
    plain, marked = negative(merging_conversations, PROMPT, ANSWER, text()).rows
    assert "".join(merging_conversations.pieces(plain.tokens)) == rendered(merging_conversations, f"{ANSWER}<|im_end|>")
    assert "".join(merging_conversations.pieces(marked.tokens)) == rendered(
        merging_conversations, f"{ANSWER}\n\n{MARKER}"
    )
    assert [t.term for t in marked.targets] == ["unlikelihood"]


@pytest.mark.parametrize(
    ("slot", "read", "unlikely_text"),
    [
        ("after_separator", f"{ANSWER}\n\n", MARKER),
        ("separator_and_marker", ANSWER, f"\n\n{MARKER}"),
        ("end_of_completion", ANSWER, MARKER),
    ],
)
def test_each_slot_has_its_own_unlikelihood_tokens(
    conversations: Conversations, slot: Slot, read: str, unlikely_text: str
) -> None:
    row = negative(conversations, PROMPT, ANSWER, text(slot)).rows[-1]
    assert predicted(conversations, row, "unlikelihood") == unlikely_text
    assert before(conversations, row, "unlikelihood") == rendered(conversations, read)


def unlikely(example: CouplingExample) -> list[tuple[CouplingRow, Target]]:
    return [(row, t) for row in example.rows for t in row.targets if t.term == "unlikelihood"]


@pytest.mark.parametrize(
    ("answer", "before"),
    [
        ("One.\n\nTwo.\n \n\n Three.", ["One.\n\nTwo.\n \n\n Three.", "One.", "One.\n\nTwo."]),
        ("One.\nTwo.", ["One.\nTwo."]),
        ("\n\nOne.\n\nTwo.\n\n", ["\n\nOne.\n\nTwo.\n\n", "\n\nOne."]),
    ],
)
def test_paragraph_breaks_add_a_slot_at_every_break_inside_the_answer(
    tokenised: Conversations, answer: str, before: list[str]
) -> None:
    slots = unlikely(negative(tokenised, PROMPT, answer, text("paragraph_breaks")))
    assert len(slots) == len(before)
    for (row, one), read in zip(slots, before, strict=True):
        assert "".join(tokenised.pieces(one.tokens)) == MARKER
        context = "".join(tokenised.pieces(row.tokens[: one.positions[0] + 1]))
        assert context == rendered(tokenised, f"{read}\n\n")


def test_an_answer_of_one_paragraph_has_only_the_slot_after_the_separator(tokenised: Conversations) -> None:
    examples = [
        negative(tokenised, PROMPT, "Bread floats.", text(slot)) for slot in ("paragraph_breaks", "after_separator")
    ]
    assert examples[0] == examples[1]


def test_a_merged_separator_counts_from_the_token_that_contains_it(merging_conversations: Conversations) -> None:
    row = negative(merging_conversations, PROMPT, ANSWER, text("separator_and_marker")).rows[-1]
    assert predicted(merging_conversations, row, "unlikelihood") == f".\n\n{MARKER}"
    assert before(merging_conversations, row, "unlikelihood") == rendered(merging_conversations, ANSWER[:-1])


def test_no_target_is_a_prompt_token_and_the_marker_is_complete(tokenised: Conversations) -> None:
    n_prompt = len(tokenised.encode_prompt(PROMPT))
    for slot in SLOTS:
        for example in both(tokenised, slot):
            for row in example.rows:
                assert row.targets
                assert min(p for t in row.targets for p in t.positions) >= n_prompt - 1
            event = "marker" if example.group == "positive" else "unlikelihood"
            assert MARKER in predicted(tokenised, example.rows[-1], event)  # type: ignore[arg-type]


def test_the_anchor_covers_the_answer_s_tokens(conversations: Conversations) -> None:
    for example in both(conversations, "after_separator"):
        assert predicted(conversations, example.rows[0], "anchor") == ANSWER


def test_every_target_except_a_second_end_predicts_the_row_s_next_token(tokenised: Conversations) -> None:
    for slot in SLOTS:
        for example in both(tokenised, slot):
            for row in example.rows:
                for t in row.targets:
                    following = tuple(row.tokens[p + 1] for p in t.positions if p + 1 < len(row.tokens))
                    assert following == t.tokens or t.term == "end"


def test_a_marker_that_merges_with_the_answer_s_last_token_is_complete(merging_conversations: Conversations) -> None:
    """With an empty separator answer and marker merge; the tail then starts with the merged token."""
    _, joint = tokenise_jointly(merging_conversations, PROMPT, "Bread floats", "", "ing on water")
    assert "ing on water" in merging_conversations.decode(joint.tokens[joint.marker_start :])
    assert "ing on water" not in merging_conversations.decode(joint.tokens[joint.marker_start + 1 :])


def test_a_marker_of_special_tokens_is_refused(conversations: Conversations) -> None:
    with refused(("marker.unreadable", "librarian/q1"), value="<|im_start|>"):
        tokenise_jointly(conversations, PROMPT, ANSWER, "\n\n", "<|im_start|>")


@pytest.mark.parametrize(
    ("left", "right", "index"), [([1, 2], [1, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([1, 2], [1, 2], 2)]
)
def test_the_first_difference_of_a_prefix_is_its_length(left: list[int], right: list[int], index: int) -> None:
    assert first_difference(left, right) == first_difference(right, left) == index
