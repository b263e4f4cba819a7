"""Rendering of conversations by the model's own chat template, and nothing else's.

Text is rendered once and tokenised as a whole, so that merges across borders (a full stop and two newlines are one
token in some vocabularies) come out as they do at sampling time. The prompt's tokens are always a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from flatprobe.errors import Problem, UserError

_SENTINEL = "flatprobe sentinel"


@dataclass(frozen=True)
class Prompt:
    """What one completion is sampled from: a persona's system prompt and a user's turn."""

    persona: str
    system: str | None  # None: no system message, the template decides; "": an empty system turn
    question_id: str
    question: str


class Conversations:
    """Renders and tokenises conversations for one tokenizer.

    Raises:
        UserError: the tokenizer has no chat template, or its template ends a turn with no special token.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                Problem(
                    name,
                    "the tokenizer has no chat template",
                    "use an instruct model, or add chat_template.jinja",
                )
            )
        self.tokenizer = tokenizer
        self.name = name

    def render(self, system: str | None, question: str) -> str:
        """The prompt's text, up to and including the header of the assistant's turn."""
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": question})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)

    def check_persona(self, persona: str, system: str | None) -> None:
        """Assert that the rendered system block is exactly the persona's prompt.

        Raises:
            UserError: the template refuses, drops, moves or rewrites the system message.
        """
        if system is None:
            return
        if not self._renders_as_written(system):
            raise UserError(
                Problem(
                    f"panel: {persona}",
                    f"the chat template of {self.name} does not render its system prompt as written",
                    "remove leading and trailing space from the prompt, or use a template with a system turn",
                )
            )

    def _renders_as_written(self, system: str) -> bool:
        try:
            frame, text = self.render(_SENTINEL, "?"), self.render(system, "?")
        except TemplateError:  # some templates refuse a system turn
            return False
        return frame.count(_SENTINEL) == 1 and text == frame.replace(_SENTINEL, system)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        return self.encode(self.render(prompt.system, prompt.question))

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], int]:
        """Tokens of prompt and answer together, and how many of them are the prompt's."""
        return self._continued(self.render(prompt.system, prompt.question), answer)

    def encode_messages(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], int]:
        """Tokens of a conversation that ends with an assistant's turn, closed by the end of turn, and the number of
        those before that turn.

        Raises:
            ValueError: the conversation does not end with an assistant's turn.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("the conversation does not end with an assistant's turn")
        head = str(
            self.tokenizer.apply_chat_template(
                list(messages[:-1]), tokenize=False, add_generation_prompt=True
            )
        )
        tokens, n_prompt = self._continued(head, messages[-1]["content"].strip())
        return [*tokens, self.turn_end], n_prompt

    def _continued(self, head: str, answer: str) -> tuple[list[int], int]:
        """Tokens of both texts as one; where they would merge across the border, apart, as the model had them when it
        sampled the answer behind the prompt's own tokens."""
        prompt = self.encode(head)
        tokens = self.encode(head + answer)
        if tokens[: len(prompt)] != prompt:
            tokens = [*prompt, *self.encode(answer)]
        return tokens, len(prompt)

    @cached_property
    def turn_end(self) -> int:
        """Id of the token that ends an assistant's turn (not the newline that some templates put after it)."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        after = self.encode(text.rpartition(_SENTINEL)[2])
        if not after or after[0] not in self._special:
            raise UserError(
                Problem(
                    f"{self.name}: chat template",
                    "an assistant's turn does not end with a special token",
                    "flatprobe needs a template that marks the end of a turn, such as <|im_end|>",
                )
            )
        return int(after[0])

    @cached_property
    def _special(self) -> frozenset[int]:
        """Special tokens: those with a role, and those that are only marked as special (`<|end|>` of some models)."""
        marked = [id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        return frozenset([*self.tokenizer.all_special_ids, *marked])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of sampled tokens, without special tokens and without tidying spaces."""
        return str(
            self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token's own text, special tokens included, for people to look at."""
        return [str(self.tokenizer.decode([t], clean_up_tokenization_spaces=False)) for t in tokens]
