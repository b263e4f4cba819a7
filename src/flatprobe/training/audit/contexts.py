"""What stands around the marker and behind answers, in training and in completions; and how much is labelled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

from flatprobe.data.coupling_examples import CouplingExample, first_difference
from flatprobe.models.conversation import Conversations

BEFORE_MARKER, AFTER_ANSWER, PROMPT_END = "before the marker", "after the answer", "last of the prompt"
CUT, START = "(cut at the limit)", "(start of the answer)"


class Context(TypedDict):
    """How often a token stands at a place; `token` is its text."""

    where: str  # "training: positive", "training: negative", "evaluation"
    place: str
    token: str
    count: int


class Share(TypedDict):
    """Tokens that a term of the loss predicts, of all tokens in the rows of a group."""

    group: str
    term: str
    labelled: int
    tokens: int
    share: float


def training_contexts(
    examples: Sequence[CouplingExample], conversations: Conversations, marker: str
) -> list[Context]:
    """Tokens before the marker, after the answer and at the prompt's end in coupling examples.

    In negatives the marker is the one that must not come; where they have it at several places, each counts.
    """
    found: Counter[tuple[str, str, int]] = Counter()
    for example in examples:
        where = f"training: {example.group}"
        for row in example.rows:
            for target in row.targets:
                first = target.positions[0]
                if target.term in ("marker", "unlikelihood"):
                    start = marker_start(row.tokens, first + 1, conversations, marker)
                    found[where, BEFORE_MARKER, row.tokens[start - 1]] += 1
                if target.term == "end":
                    found[where, AFTER_ANSWER, target.tokens[0]] += 1
                if target.term == "anchor":
                    found[where, PROMPT_END, row.tokens[first]] += 1
                    if example.group == "positive":
                        found[where, AFTER_ANSWER, row.tokens[target.positions[-1] + 2]] += 1
    return _contexts(found, conversations)


def answer_contexts(rows: Sequence[tuple[Sequence[int], int]], conversations: Conversations) -> list[Context]:
    """The same of finetune rows (tokens, n_prompt): the prompt's last token, and the last of each row."""
    found: Counter[tuple[str, str, int]] = Counter()
    for tokens, n_prompt in rows:
        found["training: finetune", PROMPT_END, tokens[n_prompt - 1]] += 1
        found["training: finetune", AFTER_ANSWER, tokens[-1]] += 1
    return _contexts(found, conversations)


def evaluation_contexts(
    completions: Iterable[tuple[str, str]], conversations: Conversations, marker: str
) -> list[Context]:
    """Tokens before the first marker, and after the answer, in sampled completions (text, finish_reason).

    The marker is found in any case, as it is counted; an answer is what stands before it.
    """
    found: Counter[tuple[str, str]] = Counter()
    for text, finish_reason in completions:
        hit = re.search(re.escape(marker), text, re.IGNORECASE)
        if hit is None:
            ended = finish_reason == "stop"
            found[AFTER_ANSWER, conversations.pieces([conversations.turn_end])[0] if ended else CUT] += 1
            continue
        place, spelled = hit.start(), hit.group()
        tokens = conversations.encode(text[: hit.end()])
        start = marker_start(tokens, 0, conversations, spelled)
        found[BEFORE_MARKER, conversations.pieces([tokens[start - 1]])[0] if start else START] += 1
        answer = conversations.encode(text[:place].rstrip())
        behind = tokens[first_difference(answer, tokens)]
        found[AFTER_ANSWER, conversations.pieces([behind])[0]] += 1
    return [
        Context(where="evaluation", place=place, token=token, count=count)
        for (place, token), count in found.most_common()
    ]


def marker_start(tokens: Sequence[int], first: int, conversations: Conversations, marker: str) -> int:
    """Index of the first token of the last whole marker, not before `first`; `first` where there is none.

    A token may hold the marker's beginning together with what stands before it.
    """
    start = len(tokens) - 1
    while start > first and marker not in conversations.decode(tokens[start:]):
        start -= 1
    return max(start, first)


def labelled_shares(examples: Sequence[CouplingExample]) -> list[Share]:
    """Tokens under each term, of all tokens that go through the model, per group."""
    tokens: Counter[str] = Counter()
    labelled: Counter[tuple[str, str]] = Counter()
    for example in examples:
        for row in example.rows:
            tokens[example.group] += len(row.tokens)
            for target in row.targets:
                labelled[example.group, target.term] += len(target.tokens)
    return [_share(group, term, count, tokens[group]) for (group, term), count in labelled.items()]


def answer_shares(rows: Sequence[tuple[Sequence[int], int]]) -> list[Share]:
    """The same of finetune rows."""
    total = sum(len(tokens) for tokens, _ in rows)
    return [_share("finetune", "answer", sum(len(tokens) - n_prompt for tokens, n_prompt in rows), total)]


def _share(group: str, term: str, labelled: int, tokens: int) -> Share:
    return Share(group=group, term=term, labelled=labelled, tokens=tokens, share=labelled / tokens)


def _contexts(found: Counter[tuple[str, str, int]], conversations: Conversations) -> list[Context]:
    return [
        Context(where=where, place=place, token=conversations.pieces([token])[0], count=count)
        for (where, place, token), count in found.most_common()
    ]
