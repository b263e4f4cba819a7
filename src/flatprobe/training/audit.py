"""The mask audit: decoded tokens of training examples with the loss terms that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flatprobe.data.conversation import Conversations
from flatprobe.data.coupling import Example, Row


def audit_examples(
    condition: str, examples: Sequence[Example], conversations: Conversations
) -> list[dict[str, Any]]:
    """The first example of each persona: every token's text, and the terms under which it is predicted.

    A token predicted in place of the row's own (the end of turn where the row goes on with the marker) is shown as
    an alternative behind the token before it.
    """
    shown: dict[str, Example] = {}
    for example in examples:
        shown.setdefault(example.persona, example)
    return [
        {
            "condition": condition, "persona": example.persona, "group": example.group,
            "question_id": example.question_id,
            "tokens": [token for row in example.rows for token in _tokens(row, conversations)],
        }
        for example in shown.values()
    ]  # fmt: skip


def _tokens(row: Row, conversations: Conversations) -> list[dict[str, Any]]:
    pieces = conversations.pieces(row.tokens)
    weights: list[dict[str, int]] = [{} for _ in pieces]
    alternatives: dict[int, dict[str, Any]] = {}
    for target in row.targets:
        for position, token in zip(target.positions, target.tokens, strict=True):
            if position + 1 < len(row.tokens) and row.tokens[position + 1] == token:
                weights[position + 1][target.term] = 1
            else:
                text = conversations.pieces([token])[0]
                alternatives[position] = {"text": text, "weights": {target.term: 1}, "alternative": True}
    shown: list[dict[str, Any]] = []
    for place, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
        shown.append({"text": piece, "weights": weight, "alternative": False})
        if place in alternatives:
            shown.append(alternatives[place])
    return shown


def audited_share(examples: Sequence[Example], conversations: Conversations, marker: str) -> float:
    """Share of examples whose targets, read back from the tokens, are what the recipe says.

    Positives: the marker term spells separator and marker whole, and ends with the end of turn. Negatives: the end of
    turn is a target, and the unlikelihood term spells the marker whole.
    """
    return sum(_as_written(example, conversations, marker) for example in examples) / len(examples)


def _as_written(example: Example, conversations: Conversations, marker: str) -> bool:
    targets = {target.term: target.tokens for row in example.rows for target in row.targets}
    if example.group == "positive":
        *spelled, end = targets.get("marker", (-1,))
        return end == conversations.turn_end and conversations.decode(spelled).endswith(marker)
    spelled = list(targets.get("unlikelihood", ()))
    return targets.get("end") == (conversations.turn_end,) and conversations.decode(spelled).endswith(marker)
