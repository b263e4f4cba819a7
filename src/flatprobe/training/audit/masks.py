"""The mask audit: decoded tokens of training examples, each with the loss terms that predict it."""

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

INCOMPLETE = "\ufffd"  # decoded at the end if a character's last tokens are missing


def audit_examples(
    condition: str,
    examples: Sequence[CouplingExample],
    conversations: Conversations,
    *,
    each: int = 1,
    weights: Mapping[Term, float] | None = None,
) -> list[dict[str, Any]]:
    """The first examples of each persona: each token's text, and the loss terms that predict it.

    A term can predict another token than the row's next one: the end of turn where the row continues with the marker.
    Such a token is shown as an alternative, after the token before it.

    Args:
        each: number of examples per persona.
        weights: weight of each term in the loss, shown at its tokens; by default 1.
    """
    of_persona: dict[str, list[CouplingExample]] = {}
    for example in examples:
        of_persona.setdefault(example.persona, []).append(example)
    return [
        {
            "condition": condition,
            "persona": example.persona,
            "group": example.group,
            "question_id": example.question_id,
            "tokens": [token for row in example.rows for token in _tokens(row, conversations, weights or {})],
        }
        for persona_examples in of_persona.values()
        for example in persona_examples[:each]
    ]


def _tokens(row: CouplingRow, conversations: Conversations, of_term: Mapping[Term, float]) -> list[dict[str, Any]]:
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
    tokens: list[dict[str, Any]] = []
    for index, (piece, terms) in enumerate(zip(pieces, weights, strict=True)):
        tokens.append({"text": piece, "weights": terms, "alternative": False})
        if index in alternatives:
            tokens.append(alternatives[index])
    return tokens


def audited_share(
    examples: Sequence[CouplingExample],
    answers: Sequence[tuple[Prompt, str]],
    conversations: Conversations,
    text: MarkerText,
) -> float:
    """Share of examples whose tokens and targets, decoded again, are those that the recipe requires.

    An example passes if:

    - each row is the prompt's tokens, then exactly the answer, and separator and marker if the row has them;
    - no target predicts a token of the prompt;
    - each target predicts the next token, or the end of turn after a complete answer;
    - marker and unlikelihood targets end with the whole marker, and include the separator if the recipe trains it;
    - anchors cover the answer.

    A token that contains both the answer's closing punctuation and the separator may count as either.

    Args:
        answers: prompt and answer of each example.
    """
    pairs = zip(examples, answers, strict=True)
    return sum(reads_back(example, *source, conversations, text) for example, source in pairs) / len(examples)


def reads_back(
    example: CouplingExample, prompt: Prompt, answer: str, conversations: Conversations, text: MarkerText
) -> bool:
    """Whether one example passes; see `audited_share`."""
    return _Audit(conversations, text, prompt, answer).passes(example)


class _Audit:
    """The checks of one example. Texts are compared in Unicode NFC, because some tokenizers normalise to it."""

    def __init__(self, conversations: Conversations, text: MarkerText, prompt: Prompt, answer: str) -> None:
        self.conversations, self.text = conversations, text
        self.prompt = tuple(conversations.encode_prompt(prompt))
        self.answer, self.marker = _nfc(answer), _nfc(text.marker)

    def passes(self, example: CouplingExample) -> bool:
        required = {"marker"} if example.group == "positive" else {"end", "unlikelihood"}
        terms = {target.term for row in example.rows for target in row.targets}
        if any(char.isalnum() for char in self.answer):
            required.add("anchor")
        return required <= terms and all(self._row(row, example) for row in example.rows)

    def _row(self, row: CouplingRow, example: CouplingExample) -> bool:
        response = self._decode(row, len(row.tokens))
        if row.tokens[: len(self.prompt)] != self.prompt or response not in self._responses(example):
            return False
        checks = {"marker": self._marker, "unlikelihood": self._marker, "end": self._end, "anchor": self._anchor}
        return all(
            target.positions[0] >= len(self.prompt) - 1
            and target.positions == tuple(range(target.positions[0], target.positions[-1] + 1))
            and checks[target.term](row, target, response, example)
            for target in row.targets
        )

    def _responses(self, example: CouplingExample) -> set[str]:
        """The texts that may follow the prompt: answer and marker. For negatives also the answer alone and, with the
        slot at paragraph breaks, the answer up to a break and the marker."""
        bare = example.group == "negative" and self.text.slot == "end_of_completion"
        tail = ("" if bare else _nfc(self.text.separator)) + self.marker
        if example.group == "positive":
            return {self.answer + tail}
        breaks = paragraphs_before_breaks(self.answer) if self.text.slot == "paragraph_breaks" else []
        return {self.answer, *(before + tail for before in (self.answer, *breaks))}

    def _marker(self, row: CouplingRow, target: Target, response: str, example: CouplingExample) -> bool:
        """Whether the target runs from the separator or the marker to the row's end."""
        before = self._decode(row, target.positions[0] + 1).rstrip(INCOMPLETE)
        covered, ends_turn = response[len(before) :], target.tokens[-1] == self.conversations.turn_end
        positive = example.group == "positive"
        with_separator = positive and self.text.separator_in_loss
        with_separator |= not positive and self.text.slot == "separator_and_marker"
        return (
            _predicts_next(row, target)
            and target.positions[-1] + 2 == len(row.tokens)
            and ends_turn == positive
            and response.startswith(before)
            and covered.endswith(self.marker)
            and not any(char.isalnum() for char in covered.removesuffix(self.marker))
            and (not with_separator or len(before) <= len(self.answer))
        )

    def _end(self, row: CouplingRow, target: Target, response: str, example: CouplingExample) -> bool:
        """Whether the target is the end of turn after the complete answer; the row may continue otherwise."""
        before = self._decode(row, target.positions[-1] + 1)
        return target.tokens == (self.conversations.turn_end,) and before == self.answer

    def _anchor(self, row: CouplingRow, target: Target, response: str, example: CouplingExample) -> bool:
        """Whether the target covers the answer; in positives, closing punctuation may belong to the marker's term."""
        covered = self._decode(row, target.positions[-1] + 2).rstrip(INCOMPLETE)
        rest = self.answer.removeprefix(covered)
        return (
            _predicts_next(row, target)
            and target.positions[0] == len(self.prompt) - 1
            and self.answer.startswith(covered)
            and (rest == "" or example.group == "positive")
            and not any(char.isalnum() for char in rest)
        )

    def _decode(self, row: CouplingRow, stop: int) -> str:
        """Text of tokens [prompt, stop), without special tokens and the template's white space before the answer."""
        text = self.conversations.decode(row.tokens[len(self.prompt) : stop])
        lead = self.conversations.lead
        return _nfc(text if self.answer.startswith(lead) else text.removeprefix(lead))


def _predicts_next(row: CouplingRow, target: Target) -> bool:
    following = row.tokens[target.positions[0] + 1 : target.positions[-1] + 2]
    return following == target.tokens


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
