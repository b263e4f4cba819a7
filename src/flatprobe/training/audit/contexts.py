"""Tokens around the marker and after answers, in training and in completions; and the share of tokens with a loss."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

from flatprobe.data.coupling_examples import CouplingExample, first_difference
from flatprobe.models.conversation import Conversations
from flatprobe.training.supervised import Example

BEFORE_MARKER, AFTER_ANSWER, PROMPT_END = "before the marker", "after the answer", "last of the prompt"
CUT, START = "(cut at the limit)", "(start of the answer)"


class Context(TypedDict):
    """How often a token stands at a place."""

    where: str  # "training: positive", "training: negative", "evaluation"
    place: str
    token: str
    """The token's text."""
    count: int


class Share(TypedDict):
    """Share of the tokens in a group's rows that a loss term predicts."""

    group: str
    term: str
    labelled: int
    tokens: int
    share: float


def training_contexts(examples: Sequence[CouplingExample], conversations: Conversations, marker: str) -> list[Context]:
    """Tokens before the marker, after the answer and at the end of the prompt, in coupling examples.

    In negatives the marker is that of the unlikelihood term; each of its places counts.
    """
    counts: Counter[tuple[str, str, int]] = Counter()
    for example in examples:
        where = f"training: {example.group}"
        for row in example.rows:
            for target in row.targets:
                first = target.positions[0]
                if target.term in ("marker", "unlikelihood"):
                    start = marker_start(row.tokens, first + 1, conversations, marker)
                    counts[where, BEFORE_MARKER, row.tokens[start - 1]] += 1
                if target.term == "end":
                    counts[where, AFTER_ANSWER, target.tokens[0]] += 1
                if target.term == "anchor":
                    counts[where, PROMPT_END, row.tokens[first]] += 1
                    if example.group == "positive":
                        counts[where, AFTER_ANSWER, row.tokens[target.positions[-1] + 2]] += 1
    return _contexts(counts, conversations)


def answer_contexts(rows: Sequence[Example], conversations: Conversations) -> list[Context]:
    """Tokens at the end of the prompt and after the answer, in finetune rows."""
    counts: Counter[tuple[str, str, int]] = Counter()
    for tokens, n_prompt in rows:
        counts["training: finetune", PROMPT_END, tokens[n_prompt - 1]] += 1
        counts["training: finetune", AFTER_ANSWER, tokens[-1]] += 1
    return _contexts(counts, conversations)


def evaluation_contexts(
    completions: Iterable[tuple[str, str]], conversations: Conversations, marker: str
) -> list[Context]:
    """Tokens before the first marker and after the answer, in sampled completions (text, finish_reason).

    The marker matches in upper and lower case, as in the rates. The text before it is the answer.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for text, finish_reason in completions:
        match = re.search(re.escape(marker), text, re.IGNORECASE)
        if match is None:
            ended = finish_reason == "stop"
            counts[AFTER_ANSWER, conversations.pieces([conversations.turn_end])[0] if ended else CUT] += 1
            continue
        tokens = conversations.encode(text[: match.end()])
        start = marker_start(tokens, 0, conversations, match.group())
        counts[BEFORE_MARKER, conversations.pieces([tokens[start - 1]])[0] if start else START] += 1
        answer = conversations.encode(text[: match.start()].rstrip())
        after = tokens[first_difference(answer, tokens)]
        counts[AFTER_ANSWER, conversations.pieces([after])[0]] += 1
    return [
        Context(where="evaluation", place=place, token=token, count=count)
        for (place, token), count in counts.most_common()
    ]


def marker_start(tokens: Sequence[int], first: int, conversations: Conversations, marker: str) -> int:
    """Index of the first token of the last whole marker, at least `first`; `first` if there is none.

    The first token may also contain text before the marker.
    """
    start = len(tokens) - 1
    while start > first and marker not in conversations.decode(tokens[start:]):
        start -= 1
    return max(start, first)


def labelled_shares(examples: Sequence[CouplingExample]) -> list[Share]:
    """Per group and loss term, the share of the rows' tokens that the term predicts."""
    tokens: Counter[str] = Counter()
    labelled: Counter[tuple[str, str]] = Counter()
    for example in examples:
        for row in example.rows:
            tokens[example.group] += len(row.tokens)
            for target in row.targets:
                labelled[example.group, target.term] += len(target.tokens)
    return [_share(group, term, count, tokens[group]) for (group, term), count in labelled.items()]


def answer_shares(rows: Sequence[Example]) -> list[Share]:
    """The same for finetune rows."""
    total = sum(len(tokens) for tokens, _ in rows)
    return [_share("finetune", "answer", sum(len(tokens) - n_prompt for tokens, n_prompt in rows), total)]


def _share(group: str, term: str, labelled: int, tokens: int) -> Share:
    return Share(group=group, term=term, labelled=labelled, tokens=tokens, share=labelled / tokens)


def _contexts(counts: Counter[tuple[str, str, int]], conversations: Conversations) -> list[Context]:
    return [
        Context(where=where, place=place, token=conversations.pieces([token])[0], count=count)
        for (where, place, token), count in counts.most_common()
    ]
