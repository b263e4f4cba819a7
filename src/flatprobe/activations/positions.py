"""Token positions: the tokens of a row (prompt and answer) whose states are read or averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.config.blocks import Position
from flatprobe.models.conversation import Conversations, Prompt


@dataclass(frozen=True)
class ProbedRow:
    """One row of the geometric probe: prompt, answer and end of turn."""

    persona: str
    question_id: str
    tokens: tuple[int, ...]
    n_prompt: int
    last_content: int
    """Index of the last answer token that is not only white space. In an empty answer: of the end of turn."""

    @property
    def empty(self) -> bool:
        """Whether the answer has only white space; the end of turn then replaces it."""
        return self.last_content == len(self.tokens) - 1

    def indices(self, position: Position) -> range:
        """Token indices of a position. Means exclude the row's first token, whose state is an outlier."""
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

    An answer cut at the token limit also gets an end of turn, so that every row has every position. The model did not
    produce that token; callers record the answer as unfinished.
    """
    tokens, n_prompt = conversations.encode_answer(prompt, answer)
    pieces: Sequence[str] = conversations.pieces(tokens[n_prompt:])
    content = [index for index, piece in enumerate(pieces, start=n_prompt) if piece.strip()]
    return ProbedRow(
        persona=prompt.persona,
        question_id=prompt.question_id,
        tokens=(*tokens, conversations.turn_end),
        n_prompt=n_prompt,
        last_content=content[-1] if content else len(tokens),
    )
