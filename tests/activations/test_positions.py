from __future__ import annotations

import pytest

from flatprobe.activations.positions import probed_row
from flatprobe.config.blocks import Position
from flatprobe.models.conversation import Conversations, Prompt

PROMPT = Prompt("villain", "You gloat.", "q1", "Why?")
ANSWER = "Bread floats.\n\nSalt does not.\n \n"


@pytest.mark.parametrize(
    ("position", "text"),
    [
        ("last_prompt_token", "\n"),
        ("last_response_token", "."),
        ("turn_end_token", "<|im_end|>"),
        ("response_mean", ANSWER),
        ("prompt_mean", "system\nYou gloat.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"),
        (
            "all_mean",
            "system\nYou gloat.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
            + ANSWER
            + "<|im_end|>",
        ),
    ],
)
def test_each_position_has_the_tokens_of_its_name(conversations: Conversations, position: Position, text: str) -> None:
    row = probed_row(conversations, PROMPT, ANSWER)
    pieces = conversations.pieces(row.tokens)
    assert "".join(pieces[index] for index in row.indices(position)) == text


def test_the_last_response_token_is_the_last_one_with_content(conversations: Conversations) -> None:
    row = probed_row(conversations, PROMPT, ANSWER)
    (index,) = row.indices("last_response_token")
    assert "".join(conversations.pieces(row.tokens[index + 1 :])) == "\n \n<|im_end|>"


def test_no_mean_contains_the_first_token(conversations: Conversations) -> None:
    row = probed_row(conversations, PROMPT, "Yes")
    assert all(0 not in row.indices(p) for p in ("response_mean", "prompt_mean", "all_mean"))


def test_a_character_of_several_tokens_is_content(conversations: Conversations) -> None:
    row = probed_row(conversations, PROMPT, "Yes 🦊\n")
    assert row.last_content == len(row.tokens) - 3


@pytest.mark.parametrize("answer", ["", "\n\n", " \n"])
def test_the_end_of_turn_replaces_the_content_of_an_empty_answer(conversations: Conversations, answer: str) -> None:
    row = probed_row(conversations, PROMPT, answer)
    assert row.empty and not probed_row(conversations, PROMPT, "Yes").empty
    last = len(row.tokens) - 1
    for position in ("last_response_token", "turn_end_token", "response_mean"):
        assert list(row.indices(position)) == [last]
