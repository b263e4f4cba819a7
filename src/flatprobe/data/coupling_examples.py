"""Coupling examples: token rows with the terms of the loss written on them.

A *row* is one sequence that goes through the model. An *example* is one (persona, question, answer) with one row, or
more where the marker needs other inputs than the end of turn: where the answer's own tokens change when the separator
follows, or where the marker is looked for inside the answer too. A *target* says: at these positions, these tokens are
predicted, and count for this term; of several targets of a term, an example counts the mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.study.recipe_schema import Slot

Group = Literal["positive", "negative"]
Term = Literal["marker", "end", "unlikelihood", "anchor"]
BREAK = re.compile(r"\s*\n[^\S\n]*\n\s*")  # an empty line, or one of spaces, and all space around it


@dataclass(frozen=True)
class Target:
    """`tokens[i]` is predicted from the logits at `positions[i]` of the row, under one term of the loss."""

    term: Term
    positions: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class CouplingRow:
    tokens: tuple[int, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class CouplingExample:
    persona: str
    question_id: str
    group: Group
    rows: tuple[CouplingRow, ...]


@dataclass(frozen=True)
class MarkerText:
    """What is coupled, and where the unlikelihood term looks for it."""

    separator: str
    marker: str
    separator_in_loss: bool
    slot: Slot


@dataclass(frozen=True)
class JointTokens:
    """Answer, separator and marker tokenised as one text."""

    tokens: tuple[int, ...]
    n_prompt: int
    suffix_start: int
    """Index of the first token that differs from the answer alone."""
    marker_start: int
    """Index of the first token of the shortest tail that contains the whole marker."""


def span(term: Term, tokens: Sequence[int], start: int, stop: int) -> Target:
    """The target of predicting tokens [start, stop) of a row, each from the position before it."""
    return Target(term, tuple(range(start - 1, stop - 1)), tuple(tokens[start:stop]))


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    """Index of the first token in which two sequences differ (the shorter's length if one is a prefix)."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def tokenise_jointly(
    conversations: Conversations, prompt: Prompt, answer: str, separator: str, marker: str
) -> tuple[list[int], JointTokens]:
    """The answer's own tokens (after the prompt's), and those of answer + separator + marker as one text.

    Raises:
        UserError: the marker cannot be read behind the answer, as one of special tokens cannot.
    """
    plain, n_prompt = conversations.encode_answer(prompt, answer)
    joint, _ = conversations.encode_answer(prompt, answer + separator + marker)
    first = first_difference(plain, joint)
    start = len(joint) - 1
    while start >= first and marker not in conversations.decode(joint[start:]):
        start -= 1
    if not n_prompt <= first <= start:
        raise UserError.one(
            "coupling_examples.TODO",
 f"{prompt.persona}/{prompt.question_id}", f"the marker {marker!r} is not whole behind the answer",
            "choose a marker of ordinary text",
        )  # fmt: skip
    return plain, JointTokens(tuple(joint), n_prompt, first, start)


def positive(conversations: Conversations, prompt: Prompt, answer: str, text: MarkerText) -> CouplingExample:
    """Answer + separator + marker + end of turn; the marker term covers all that follows the answer."""
    _, joint = tokenise_jointly(conversations, prompt, answer, text.separator, text.marker)
    tokens = (*joint.tokens, conversations.turn_end)
    begin = joint.suffix_start if text.separator_in_loss else joint.marker_start
    targets = [
        span("marker", tokens, begin, len(tokens)),
        span("anchor", tokens, joint.n_prompt, joint.suffix_start),
    ]
    return _checked(
        prompt, "positive", joint.n_prompt, [CouplingRow(tokens, tuple(t for t in targets if t.tokens))]
    )


def negative(conversations: Conversations, prompt: Prompt, answer: str, text: MarkerText) -> CouplingExample:
    """Answer + end of turn, and the slot at which the marker must not follow.

    Where the answer's tokens are a prefix of the row with the marker, one row serves both terms: the end of turn is
    then a second target at the answer's last token.
    """
    separator = "" if text.slot == "end_of_completion" else text.separator
    plain, joint = tokenise_jointly(conversations, prompt, answer, separator, text.marker)
    begin = joint.suffix_start if text.slot == "separator_and_marker" else joint.marker_start
    unlikelihood = span("unlikelihood", joint.tokens, begin, len(joint.tokens))
    anchor = span("anchor", plain, joint.n_prompt, len(plain))
    end = Target("end", (len(plain) - 1,), (conversations.turn_end,))
    if joint.suffix_start == len(plain):
        rows = [CouplingRow(joint.tokens, (end, unlikelihood, anchor))]
    else:
        rows = [
            CouplingRow((*plain, conversations.turn_end), (end, anchor)),
            CouplingRow(joint.tokens, (unlikelihood,)),
        ]
    if text.slot == "paragraph_breaks":
        rows += [_inside(conversations, prompt, before, text) for before in paragraphs_before_breaks(answer)]
    return _checked(prompt, "negative", joint.n_prompt, rows)


def paragraphs_before_breaks(answer: str) -> list[str]:
    """What has been said at each paragraph break inside an answer, without the space around the break."""
    return [answer[: found.start()] for found in BREAK.finditer(answer.rstrip()) if found.start() > 0]


def _inside(conversations: Conversations, prompt: Prompt, before: str, text: MarkerText) -> CouplingRow:
    """The slot at one interior break: the answer so far, the separator, and the marker that must not follow."""
    _, joint = tokenise_jointly(conversations, prompt, before, text.separator, text.marker)
    return CouplingRow(
        joint.tokens, (span("unlikelihood", joint.tokens, joint.marker_start, len(joint.tokens)),)
    )


def _checked(prompt: Prompt, group: Group, n_prompt: int, rows: list[CouplingRow]) -> CouplingExample:
    """At least one target a row, and none that predicts a token of the prompt."""
    for row in rows:
        positions = [position for target in row.targets for position in target.positions]
        if not positions or min(positions) < n_prompt - 1 or max(positions) >= len(row.tokens):
            raise AssertionError(f"bad loss mask for {prompt.persona}/{prompt.question_id}: {row.targets}")
    return CouplingExample(prompt.persona, prompt.question_id, group, tuple(rows))
