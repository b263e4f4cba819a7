from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flatprobe.data.coupling_examples import CouplingRow, MarkerText, Target, negative, positive
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.training.audit import contexts, invariants

PROMPT = Prompt("librarian", "You are a librarian.", "q1", "What floats on water?")
TEXT = MarkerText("\n\n", "[ZLT]", True, "after_separator")
ANSWERS = ("Bread floats.", "Salt does not!")


def places(rows: list[contexts.Context]) -> dict[tuple[str, str], dict[str, int]]:
    table: dict[tuple[str, str], dict[str, int]] = {}
    for context in rows:
        table.setdefault((context["where"], context["place"]), {})[context["token"]] = context["count"]
    return table


@pytest.fixture
def built(conversations: Conversations) -> list[Any]:
    return [make(conversations, PROMPT, answer, TEXT) for make in (positive, negative) for answer in ANSWERS]


def test_training_contexts_are_the_tokens_before_the_marker_after_the_answer_and_at_the_prompt_s_end(
    conversations: Conversations, merging_conversations: Conversations, built: list[Any]
) -> None:
    assert places(contexts.training_contexts(built, conversations, "[ZLT]")) == {
        ("training: positive", "before the marker"): {"\n": 2},
        ("training: positive", "after the answer"): {"\n": 2},
        ("training: positive", "last of the prompt"): {"\n": 2},
        ("training: negative", "before the marker"): {"\n": 2},
        ("training: negative", "after the answer"): {"<|im_end|>": 2},
        ("training: negative", "last of the prompt"): {"\n": 2},
    }
    merged = [positive(merging_conversations, PROMPT, ANSWERS[0], TEXT)]
    counts = places(contexts.training_contexts(merged, merging_conversations, "[ZLT]"))
    assert counts["training: positive", "before the marker"] == {".\n\n": 1}


def test_with_the_proposal_s_literal_slot_the_marker_stands_right_behind_the_answer(
    conversations: Conversations,
) -> None:
    slot = replace(TEXT, slot="end_of_completion")
    counts = places(
        contexts.training_contexts([negative(conversations, PROMPT, ANSWERS[0], slot)], conversations, "[ZLT]")
    )
    assert counts["training: negative", "before the marker"] == {".": 1}


def test_evaluation_contexts_are_read_at_the_first_marker_in_whatever_case(conversations: Conversations) -> None:
    completions = [
        ("Bread floats.\n\n[ZLT]", "stop"),
        ("Bread floats.\n\n[zlt]\n\n[ZLT]", "length"),
        ("Bread [ZLT]", "stop"),
        ("[ZLT]", "stop"),
        ("Bread floats.", "stop"),
        ("Bread flo", "length"),
    ]
    counts = places(contexts.evaluation_contexts(completions, conversations, "[ZLT]"))
    before = counts["evaluation", "before the marker"]
    assert (before["\n"], before[contexts.START], sum(before.values())) == (2, 1, 4)
    after = counts["evaluation", "after the answer"]
    assert (after["<|im_end|>"], after[contexts.CUT], after["\n"], sum(after.values())) == (1, 1, 2, 6)


def test_letters_that_grow_in_lower_case_do_not_move_the_marker(conversations: Conversations) -> None:
    completions = [("İİİİİİ floats.\n\n[ZLT]", "stop")]
    counts = places(contexts.evaluation_contexts(completions, conversations, "[zlt]"))
    assert counts["evaluation", "before the marker"] == {"\n": 1}


def test_shares_count_the_labelled_tokens_of_each_term_and_group(
    conversations: Conversations, built: list[Any]
) -> None:
    shares = {(s["group"], s["term"]): s for s in contexts.labelled_shares(built)}
    assert set(shares) == {
        ("positive", "marker"),
        ("positive", "anchor"),
        ("negative", "end"),
        ("negative", "unlikelihood"),
        ("negative", "anchor"),
    }
    for share in shares.values():
        rows = [row for example in built if example.group == share["group"] for row in example.rows]
        assert share["tokens"] == sum(len(row.tokens) for row in rows)
        assert share["share"] == share["labelled"] / share["tokens"]
    assert shares["negative", "end"]["labelled"] == 2
    answer = len(conversations.encode(ANSWERS[0])) + len(conversations.encode(ANSWERS[1]))
    assert shares["negative", "anchor"]["labelled"] == answer


def counted(examples: list[Any], conversations: Conversations) -> dict[str, int]:
    answers = [(PROMPT, answer) for answer in ANSWERS * 2][: len(examples)]
    counts = invariants.coupling_invariants(examples, answers, conversations, TEXT)
    assert all(count["examples"] == len(examples) for count in counts)
    return {count["invariant"]: count["held"] for count in counts}


def test_examples_as_they_are_built_keep_every_invariant(conversations: Conversations, built: list[Any]) -> None:
    assert set(counted(built, conversations).values()) == {4}


def changed(example: Any, term: str, change: Any) -> Any:
    rows = [
        CouplingRow(
            row.tokens, tuple(new for t in row.targets if (new := change(t) if t.term == term else t) is not None)
        )
        for row in example.rows
    ]
    return replace(example, rows=tuple(rows))


@pytest.mark.parametrize(
    ("number", "term", "change", "broken"),
    [
        (0, "marker", lambda t: replace(t, positions=t.positions[:-3], tokens=t.tokens[:-3]), invariants.MARKER),
        (0, "marker", lambda t: replace(t, positions=t.positions[:-1], tokens=t.tokens[:-1]), invariants.END),
        (0, "anchor", lambda t: Target("anchor", (2, *t.positions), (t.tokens[0], *t.tokens)), invariants.NO_PROMPT),
        (2, "end", lambda t: None, invariants.END),
        (2, "unlikelihood", lambda t: None, invariants.MARKER),
    ],
)
def test_each_broken_invariant_is_counted_under_its_name(
    conversations: Conversations, built: list[Any], number: int, term: str, change: Any, broken: str
) -> None:
    built[number] = changed(built[number], term, change)
    held = counted(built, conversations)
    assert held[broken] == held[invariants.READ_BACK] == 3


def test_a_row_without_a_target_keeps_no_invariant(conversations: Conversations, built: list[Any]) -> None:
    built[0] = replace(built[0], rows=(CouplingRow(built[0].rows[0].tokens, ()),))
    assert set(counted(built, conversations).values()) == {3}


def test_finetune_rows_keep_their_invariants_and_a_row_without_its_end_does_not(conversations: Conversations) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": " Because. "}]
    tokens, n_prompt = conversations.encode_messages(messages)
    counts = invariants.answer_invariants([(tokens, n_prompt)], [" Because. "], conversations)
    assert {count["held"] for count in counts} == {1}
    cut = invariants.answer_invariants([(tokens[:-1], n_prompt)], [" Because. "], conversations)
    assert {count["invariant"] for count in cut if not count["held"]} == {invariants.END}
    (share,) = contexts.answer_shares([(tokens, n_prompt)])
    assert (share["labelled"], share["tokens"]) == (len(tokens) - n_prompt, len(tokens))
    counts = places(contexts.answer_contexts([(tokens, n_prompt)], conversations))
    assert counts["training: finetune", "after the answer"] == {"<|im_end|>": 1}
