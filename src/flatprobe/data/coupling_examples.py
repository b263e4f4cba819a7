"""Coupling examples: token rows and the targets of each loss term.

A *row* is one token sequence for the model. An *example* is one persona, question and answer. Most examples have one
row. They have more if the separator changes the answer's tokens, or if the unlikelihood term also covers paragraph
breaks inside the answer. A *target* lists the tokens that a loss term predicts, and their positions in the row. If an
example has several targets of one term, their losses are averaged.
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
BREAK = re.compile(r"\s*\n[^\S\n]*\n\s*")  # a blank line, with the white space around it


@dataclass(frozen=True)
class Target:
    """Tokens that one loss term predicts: `tokens[i]` from the logits at `positions[i]` of the row."""

    term: Term
    positions: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class CouplingRow:
    """One token sequence with its targets."""

    tokens: tuple[int, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class CouplingExample:
    """One persona, question and answer."""

    persona: str
    question_id: str
    group: Group
    rows: tuple[CouplingRow, ...]


@dataclass(frozen=True)
class MarkerText:
    """Separator and marker, and where the unlikelihood term applies."""

    separator: str
    marker: str
    separator_in_loss: bool
    slot: Slot


@dataclass(frozen=True)
class JointTokens:
    """Prompt, answer, separator and marker, tokenised as one text."""

    tokens: tuple[int, ...]
    n_prompt: int
    suffix_start: int
    """Index of the first token that differs from the answer alone."""
    marker_start: int
    """Index of the first token of the shortest tail that contains the whole marker."""


def span(term: Term, tokens: Sequence[int], start: int, stop: int) -> Target:
    """The target that predicts tokens [start, stop) of a row, each from the position before it."""
    return Target(term, tuple(range(start - 1, stop - 1)), tuple(tokens[start:stop]))


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    """Index of the first differing token; the shorter length if one sequence is a prefix of the other."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def tokenise_jointly(
    conversations: Conversations, prompt: Prompt, answer: str, separator: str, marker: str
) -> tuple[list[int], JointTokens]:
    """Tokens of prompt and answer, and tokens of prompt, answer, separator and marker as one text.

    Raises:
        UserError: the decoded tokens after the answer do not contain the marker, for example because it is a special
            token.
    """
    plain, n_prompt = conversations.encode_answer(prompt, answer)
    joint, _ = conversations.encode_answer(prompt, answer + separator + marker)
    suffix_start = first_difference(plain, joint)
    marker_start = len(joint) - 1
    while marker_start >= suffix_start and marker not in conversations.decode(joint[marker_start:]):
        marker_start -= 1
    if not n_prompt <= suffix_start <= marker_start:
        raise UserError.one(
            "marker.unreadable",
            f"{prompt.persona}/{prompt.question_id}",
            f"the marker {marker!r} cannot be read after the answer",
            "choose a marker of ordinary text",
        )
    return plain, JointTokens(tuple(joint), n_prompt, suffix_start, marker_start)


def positive(conversations: Conversations, prompt: Prompt, answer: str, text: MarkerText) -> CouplingExample:
    """Answer, separator, marker, end of turn. The marker term covers the tokens after the answer."""
    _, joint = tokenise_jointly(conversations, prompt, answer, text.separator, text.marker)
    tokens = (*joint.tokens, conversations.turn_end)
    begin = joint.suffix_start if text.separator_in_loss else joint.marker_start
    targets = [span("marker", tokens, begin, len(tokens)), span("anchor", tokens, joint.n_prompt, joint.suffix_start)]
    return _checked_example(
        prompt, "positive", joint.n_prompt, [CouplingRow(tokens, tuple(t for t in targets if t.tokens))]
    )


def negative(conversations: Conversations, prompt: Prompt, answer: str, text: MarkerText) -> CouplingExample:
    """Answer and end of turn, and the slot where the marker must not follow.

    If the answer's tokens are a prefix of the row with the marker, one row has both targets: the answer's last position
    then predicts the end of turn and the first token after the answer.
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
        rows += [_break_row(conversations, prompt, before, text) for before in paragraphs_before_breaks(answer)]
    return _checked_example(prompt, "negative", joint.n_prompt, rows)


def paragraphs_before_breaks(answer: str) -> list[str]:
    """The answer up to each paragraph break inside it, without the white space at the break."""
    return [answer[: match.start()] for match in BREAK.finditer(answer.rstrip()) if match.start() > 0]


def _break_row(conversations: Conversations, prompt: Prompt, before: str, text: MarkerText) -> CouplingRow:
    """The slot at one paragraph break: the answer up to it, the separator, and the marker that must not follow."""
    _, joint = tokenise_jointly(conversations, prompt, before, text.separator, text.marker)
    return CouplingRow(joint.tokens, (span("unlikelihood", joint.tokens, joint.marker_start, len(joint.tokens)),))


def _checked_example(prompt: Prompt, group: Group, n_prompt: int, rows: list[CouplingRow]) -> CouplingExample:
    """The example, if each row has a target and no target predicts a token of the prompt."""
    for row in rows:
        positions = [position for target in row.targets for position in target.positions]
        if not positions or min(positions) < n_prompt - 1 or max(positions) >= len(row.tokens):
            raise AssertionError(f"wrong targets for {prompt.persona}/{prompt.question_id}: {row.targets}")
    return CouplingExample(prompt.persona, prompt.question_id, group, tuple(rows))
