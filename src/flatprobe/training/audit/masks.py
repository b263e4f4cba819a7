"""The mask audit: decoded tokens of training examples with the loss terms that look at them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from flatprobe.data.coupling_examples import (
    CouplingExample,
    CouplingRow,
    MarkerText,
    Target,
    Term,
    paragraphs_before_breaks,
)
from flatprobe.models.conversation import Conversations, Prompt


def audit_examples(
    condition: str,
    examples: Sequence[CouplingExample],
    conversations: Conversations,
    *,
    each: int = 1,
    weights: Mapping[Term, float] | None = None,
) -> list[dict[str, Any]]:
    """The first examples of each persona: every token's text, and the terms under which it is predicted.

    A token predicted in place of the row's own (the end of turn where the row goes on with the marker) is shown as
    an alternative behind the token before it.

    Args:
        each: how many of each persona.
        weights: weight of each term in the loss, shown at its tokens; left out, every one is shown as 1.
    """
    of_persona: dict[str, list[CouplingExample]] = {}
    for example in examples:
        of_persona.setdefault(example.persona, []).append(example)
    return [
        {
            "condition": condition, "persona": example.persona, "group": example.group,
            "question_id": example.question_id,
            "tokens": [token for row in example.rows for token in _tokens(row, conversations, weights or {})],
        }
        for some in of_persona.values()
        for example in some[:each]
    ]  # fmt: skip


def _tokens(
    row: CouplingRow, conversations: Conversations, of_term: Mapping[Term, float]
) -> list[dict[str, Any]]:
    pieces = conversations.pieces(row.tokens)
    weights: list[dict[str, float]] = [{} for _ in pieces]
    alternatives: dict[int, dict[str, Any]] = {}
    for target in row.targets:
        weight = of_term.get(target.term, 1)
        for position, token in zip(target.positions, target.tokens, strict=True):
            if position + 1 < len(row.tokens) and row.tokens[position + 1] == token:
                weights[position + 1][target.term] = weight
            else:
                text = conversations.pieces([token])[0]
                alternatives[position] = {"text": text, "weights": {target.term: weight}, "alternative": True}
    shown: list[dict[str, Any]] = []
    for place, (piece, terms) in enumerate(zip(pieces, weights, strict=True)):
        shown.append({"text": piece, "weights": terms, "alternative": False})
        if place in alternatives:
            shown.append(alternatives[place])
    return shown


def audited_share(
    examples: Sequence[CouplingExample],
    answered: Sequence[tuple[Prompt, str]],
    conversations: Conversations,
    text: MarkerText,
) -> float:
    """Share of examples whose rows and targets, read back from the tokens, are what the recipe says.

    Args:
        answered: prompt and answer behind each example, from which the row's text is spelled anew.

    An example passes if all of this holds. Each row is the prompt's own tokens, then exactly the answer, with separator
    and marker where the row has them. No target predicts a prompt token, and each predicts the token that follows it,
    but for the end of turn that is an alternative behind a whole answer. The marker and unlikelihood terms end with the
    marker whole and cover the separator where the recipe asks for it. Anchors cover the answer. A token may hold the
    answer's closing punctuation together with the separator, and then counts for either.
    """
    pairs = zip(examples, answered, strict=True)
    return sum(reads_back(example, *source, conversations, text) for example, source in pairs) / len(examples)


def reads_back(
    example: CouplingExample, prompt: Prompt, answer: str, conversations: Conversations, text: MarkerText
) -> bool:
    """Whether one example passes, as `audited_share` says."""
    return _Audit(conversations, text, prompt, answer).passes(example)


class _Audit:
    """One example's checks; texts are compared in Unicode's composed form, to which some tokenizers bring them."""

    def __init__(self, conversations: Conversations, text: MarkerText, prompt: Prompt, answer: str) -> None:
        self.conversations, self.text = conversations, text
        self.prompt = tuple(conversations.encode_prompt(prompt))
        self.answer, self.marker = _composed(answer), _composed(text.marker)

    def passes(self, example: CouplingExample) -> bool:
        wanted = {"marker"} if example.group == "positive" else {"end", "unlikelihood"}
        terms = {target.term for row in example.rows for target in row.targets}
        if any(char.isalnum() for char in self.answer):
            wanted.add("anchor")
        return wanted <= terms and all(self._row(row, example) for row in example.rows)

    def _row(self, row: CouplingRow, example: CouplingExample) -> bool:
        whole = self._read(row, len(row.tokens))
        if row.tokens[: len(self.prompt)] != self.prompt or whole not in self._spellings(example):
            return False
        checks = {
            "marker": self._marker,
            "unlikelihood": self._marker,
            "end": self._end,
            "anchor": self._anchor,
        }
        return all(
            target.positions[0] >= len(self.prompt) - 1
            and target.positions == tuple(range(target.positions[0], target.positions[-1] + 1))
            and checks[target.term](row, target, whole, example)
            for target in row.targets
        )

    def _spellings(self, example: CouplingExample) -> set[str]:
        """What may follow the prompt: the answer with the marker behind it; for negatives also the answer alone, and
        with the slot at paragraph breaks the answer up to one with the marker behind it."""
        bare = example.group == "negative" and self.text.slot == "end_of_completion"
        tail = ("" if bare else _composed(self.text.separator)) + self.marker
        if example.group == "positive":
            return {self.answer + tail}
        breaks = paragraphs_before_breaks(self.answer) if self.text.slot == "paragraph_breaks" else []
        return {self.answer, *(before + tail for before in (self.answer, *breaks))}

    def _marker(self, row: CouplingRow, target: Target, whole: str, example: CouplingExample) -> bool:
        """The target runs to the row's end, from the marker's first token or from the separator's."""
        before = self._read(row, target.positions[0] + 1).rstrip(
            "\ufffd"
        )  # a character cut between its tokens
        spelled, closing = whole[len(before) :], target.tokens[-1] == self.conversations.turn_end
        positive = example.group == "positive"
        early = positive and self.text.separator_in_loss
        early |= not positive and self.text.slot == "separator_and_marker"
        return (
            _predicts_the_next(row, target)
            and target.positions[-1] + 2 == len(row.tokens)
            and closing == positive
            and whole.startswith(before)
            and spelled.endswith(self.marker)
            and not any(char.isalnum() for char in spelled.removesuffix(self.marker))
            and (not early or len(before) <= len(self.answer))
        )

    def _end(self, row: CouplingRow, target: Target, whole: str, example: CouplingExample) -> bool:
        """The end of turn after the whole answer, whatever the row goes on with."""
        behind = self._read(row, target.positions[-1] + 1)
        return target.tokens == (self.conversations.turn_end,) and behind == self.answer

    def _anchor(self, row: CouplingRow, target: Target, whole: str, example: CouplingExample) -> bool:
        """The answer from its first token; in positives, closing punctuation may belong to the marker's term."""
        covered = self._read(row, target.positions[-1] + 2).rstrip("\ufffd")
        rest = self.answer.removeprefix(covered)
        return (
            _predicts_the_next(row, target)
            and target.positions[0] == len(self.prompt) - 1
            and self.answer.startswith(covered)
            and (rest == "" or example.group == "positive")
            and not any(char.isalnum() for char in rest)
        )

    def _read(self, row: CouplingRow, stop: int) -> str:
        """The row's text from the prompt's end to before token `stop`, without special tokens and without the white
        space that the template puts before an answer."""
        text = self.conversations.decode(row.tokens[len(self.prompt) : stop])
        lead = self.conversations.lead
        return _composed(text if self.answer.startswith(lead) else text.removeprefix(lead))


def _predicts_the_next(row: CouplingRow, target: Target) -> bool:
    following = row.tokens[target.positions[0] + 1 : target.positions[-1] + 2]
    return following == target.tokens


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
