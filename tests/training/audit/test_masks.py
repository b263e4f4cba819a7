from __future__ import annotations

from dataclasses import replace

import pytest

from flatprobe.data.coupling_examples import CouplingExample, CouplingRow, MarkerText, Slot, Target, negative, positive
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.training.audit.masks import audit_examples, audited_share

PROMPT = Prompt("librarian", "You are a librarian.", "q1", "What floats on water?")
ANSWERS = ("Bread floats.", "Bread\n\nand salt", 'It "does"?!', "Caf\u00e9 \U0001f98a", "42", "...")
SLOTS: tuple[Slot, ...] = ("after_separator", "separator_and_marker", "paragraph_breaks", "end_of_completion")


def text(slot: Slot = "after_separator", *, separator_in_loss: bool = True) -> MarkerText:
    return MarkerText("\n\n", "[ZLT]", separator_in_loss, slot)


def shifted(target: Target, by: int) -> Target:
    return replace(target, positions=tuple(position + by for position in target.positions))


def with_target(example: CouplingExample, term: str, change: dict[str, Target]) -> CouplingExample:
    """The example with one term's target exchanged."""
    rows = [
        CouplingRow(row.tokens, tuple(change[t.term] if t.term == term else t for t in row.targets))
        for row in example.rows
    ]
    return replace(example, rows=tuple(rows))


def of(example: CouplingExample, term: str) -> Target:
    (target,) = [target for row in example.rows for target in row.targets if target.term == term]
    return target


def share(conversations: Conversations, example: CouplingExample, slot: MarkerText, answer: str = ANSWERS[0]) -> float:
    return audited_share([example], [(PROMPT, answer)], conversations, slot)


@pytest.mark.parametrize("separator_in_loss", [True, False])
@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_examples_as_they_are_built_pass_whether_or_not_the_separator_merges(
    conversations: Conversations, merging_conversations: Conversations, answer: str, slot: Slot, separator_in_loss: bool
) -> None:
    given = text(slot, separator_in_loss=separator_in_loss)
    for encoder in (conversations, merging_conversations):
        examples = [make(encoder, PROMPT, answer, given) for make in (positive, negative)]
        assert audited_share(examples, [(PROMPT, answer)] * 2, encoder, given) == 1.0


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize(
    ("group", "term"),
    [
        ("positive", "marker"),
        ("positive", "anchor"),
        ("negative", "unlikelihood"),
        ("negative", "anchor"),
        ("negative", "end"),
    ],
)
def test_a_misplaced_target_fails_though_its_tokens_are_right(
    conversations: Conversations, group: str, term: str, by: int
) -> None:
    make = positive if group == "positive" else negative
    example = make(conversations, PROMPT, ANSWERS[0], text())
    moved = with_target(example, term, {term: shifted(of(example, term), by)})
    assert share(conversations, moved, text()) == 0.0


def test_a_target_on_the_prompt_s_tokens_fails(conversations: Conversations) -> None:
    example = negative(conversations, PROMPT, ANSWERS[0], text())
    row, anchor = example.rows[0], of(example, "anchor")
    n_prompt = anchor.positions[0] + 1
    early = Target("anchor", tuple(range(n_prompt - 3, n_prompt - 1)), row.tokens[n_prompt - 2 : n_prompt])
    assert share(conversations, with_target(example, "anchor", {"anchor": early}), text()) == 0.0


def test_a_separator_outside_the_loss_fails_only_where_the_recipe_wants_it_learnt(conversations: Conversations) -> None:
    short = text(separator_in_loss=False)
    example = positive(conversations, PROMPT, ANSWERS[0], short)
    assert share(conversations, example, short) == 1.0
    assert share(conversations, example, text()) == 0.0
    after = negative(conversations, PROMPT, ANSWERS[0], text())
    assert share(conversations, after, text("separator_and_marker")) == 0.0


@pytest.mark.parametrize("make", [positive, negative])
def test_a_row_that_holds_another_answer_or_another_marker_fails(conversations: Conversations, make: object) -> None:
    assert callable(make)
    example = make(conversations, PROMPT, ANSWERS[0], text())
    assert share(conversations, example, text(), "Bread sinks.") == 0.0
    assert share(conversations, example, replace(text(), marker="[QRS]")) == 0.0


def test_an_anchor_that_leaves_out_a_word_fails(conversations: Conversations) -> None:
    for make in (positive, negative):
        example = make(conversations, PROMPT, ANSWERS[0], text())
        anchor = of(example, "anchor")
        cut = Target("anchor", anchor.positions[:1], anchor.tokens[:1])
        assert share(conversations, with_target(example, "anchor", {"anchor": cut}), text()) == 0.0


def test_a_lost_term_and_a_cut_marker_fail_and_the_share_counts_examples(conversations: Conversations) -> None:
    example = negative(conversations, PROMPT, ANSWERS[0], text())
    unlikely = of(example, "unlikelihood")
    cut = Target("unlikelihood", unlikely.positions[:-1], unlikely.tokens[:-1])
    examples = [
        example,
        with_target(example, "unlikelihood", {"unlikelihood": cut}),
        replace(
            example,
            rows=tuple(CouplingRow(r.tokens, tuple(t for t in r.targets if t.term != "end")) for r in example.rows),
        ),
        positive(conversations, PROMPT, ANSWERS[0], text()),
    ]
    assert audited_share(examples, [(PROMPT, ANSWERS[0])] * 4, conversations, text()) == 0.5


def test_a_marker_inside_an_answer_passes_only_where_the_recipe_looks_there(conversations: Conversations) -> None:
    answer = "Bread floats.\n\nSalt does not."
    inside = negative(conversations, PROMPT, answer, text("paragraph_breaks"))
    assert len(inside.rows) == len(negative(conversations, PROMPT, answer, text()).rows) + 1
    assert share(conversations, inside, text("paragraph_breaks"), answer) == 1.0
    assert share(conversations, inside, text(), answer) == 0.0


def test_shown_tokens_carry_the_weights_of_their_terms_and_as_many_examples_as_asked_for(
    conversations: Conversations,
) -> None:
    examples = [make(conversations, PROMPT, ANSWERS[0], text()) for make in (negative, negative, positive)]
    decoded = audit_examples(
        "base", examples, conversations, each=2, weights={"marker": 1, "end": 1, "unlikelihood": 0.5, "anchor": 0}
    )
    assert [example["group"] for example in decoded] == ["negative", "negative"]
    weights = {name: w for token in decoded[0]["tokens"] for name, w in token["weights"].items()}
    assert weights == {"end": 1, "unlikelihood": 0.5, "anchor": 0}
    assert [len(audit_examples("base", examples, conversations, each=n)) for n in (1, 3)] == [1, 3]
