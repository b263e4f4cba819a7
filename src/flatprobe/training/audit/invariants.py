"""Invariants of training examples: for how many examples does each hold?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

from flatprobe.data.coupling_examples import CouplingExample, MarkerText, Target
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.training.audit.masks import reads_back
from flatprobe.training.supervised import Example


class Count(TypedDict):
    """Number of examples for which an invariant holds."""

    invariant: str
    held: int
    examples: int


TARGETS = "at least one target in every row"
NO_PROMPT = "no token of the prompt is a target"
MARKER = "the marker is whole"
END = "the end of turn is a target"
READ_BACK = "reads back from its tokens as the recipe says"


def coupling_invariants(
    examples: Sequence[CouplingExample],
    answers: Sequence[tuple[Prompt, str]],
    conversations: Conversations,
    text: MarkerText,
) -> list[Count]:
    """The invariants of coupling examples; `answers` has the prompt and answer of each example."""
    checks: list[dict[str, bool]] = []
    for example, (prompt, answer) in zip(examples, answers, strict=True):
        n_prompt = len(conversations.encode_prompt(prompt))
        positions = [p for row in example.rows for target in row.targets for p in target.positions]
        checks.append(
            {
                TARGETS: all(row.targets and all(t.tokens for t in row.targets) for row in example.rows),
                NO_PROMPT: bool(positions) and min(positions) >= n_prompt - 1,
                MARKER: _marker_is_whole(example, conversations, text.marker),
                END: _ends_the_turn(example, conversations.turn_end),
                READ_BACK: reads_back(example, prompt, answer, conversations, text),
            }
        )
    return _counts((TARGETS, NO_PROMPT, MARKER, END, READ_BACK), checks)


def answer_invariants(rows: Sequence[Example], answers: Sequence[str], conversations: Conversations) -> list[Count]:
    """The invariants of finetune rows, whose targets are all tokens after the prompt."""
    checks = [
        {
            TARGETS: len(tokens) > n_prompt,
            NO_PROMPT: n_prompt > 0,
            END: tokens[-1] == conversations.turn_end and len(tokens) > n_prompt,
            READ_BACK: conversations.decode(tokens[n_prompt:]).strip() == answer.strip(),
        }
        for (tokens, n_prompt), answer in zip(rows, answers, strict=True)
    ]
    return _counts((TARGETS, NO_PROMPT, END, READ_BACK), checks)


def _counts(names: Iterable[str], checks: Sequence[dict[str, bool]]) -> list[Count]:
    return [Count(invariant=name, held=sum(check[name] for check in checks), examples=len(checks)) for name in names]


def _targets(example: CouplingExample, term: str) -> list[Target]:
    return [target for row in example.rows for target in row.targets if target.term == term]


def _marker_is_whole(example: CouplingExample, conversations: Conversations, marker: str) -> bool:
    """Whether every marker or unlikelihood target contains the whole marker."""
    targets = _targets(example, "marker" if example.group == "positive" else "unlikelihood")
    return bool(targets) and all(marker in conversations.decode(target.tokens) for target in targets)


def _ends_the_turn(example: CouplingExample, turn_end: int) -> bool:
    targets = _targets(example, "marker" if example.group == "positive" else "end")
    return bool(targets) and all(target.tokens[-1] == turn_end for target in targets)
