"""Token positions by mask: which tokens of a (prompt, answer) row a state is read from or averaged over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.config.blocks import Position
from flatprobe.models.conversation import Conversations, Prompt


@dataclass(frozen=True)
class ProbedRow:
    """One row of the geometric probe: prompt, answer, end of turn."""

    persona: str
    question_id: str
    tokens: tuple[int, ...]
    n_prompt: int
    last_content: int
    """Index of the last answer token that is not only white space; of the end of turn in an empty answer."""

    @property
    def empty(self) -> bool:
        """Whether the answer has no content token, so that the end of turn stands in for it."""
        return self.last_content == len(self.tokens) - 1

    def indices(self, position: Position) -> range:
        """Token indices of a position; means never include the first token, whose state is unlike all others."""
        last = len(self.tokens) - 1
        ranges: dict[Position, range] = {
            "last_prompt_token": range(self.n_prompt - 1, self.n_prompt),
            "last_response_token": range(self.last_content, self.last_content + 1),
            "turn_end_token": range(last, last + 1),
            "response_mean": range(last, last + 1) if self.empty else range(self.n_prompt, last),
            "prompt_mean": range(1, self.n_prompt),
            "all_mean": range(1, last + 1),
        }
        return ranges[position]


def probed_row(conversations: Conversations, prompt: Prompt, answer: str) -> ProbedRow:
    """Render one row.

    An answer that hit the token limit gets an end of turn all the same, so that every row has every position; it is
    the one thing in the row that the model did not say, and the cell is noted as unfinished by who reads the states.
    """
    tokens, n_prompt = conversations.encode_answer(prompt, answer)
    pieces: Sequence[str] = conversations.pieces(tokens[n_prompt:])
    content = [n_prompt + place for place, piece in enumerate(pieces) if piece.strip()]
    return ProbedRow(
        prompt.persona, prompt.question_id, (*tokens, conversations.turn_end), n_prompt,
        content[-1] if content else len(tokens),
    )  # fmt: skip
