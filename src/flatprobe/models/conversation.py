"""Conversations rendered by the model's chat template, and their tokens.

Prompt and answer are tokenised as one text, because tokens may merge across parts: in some vocabularies a full stop and
two newlines are one token. The prompt's tokens are always a prefix of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from flatprobe.errors import UserError

FOLD = "\n\n"
"""Text between system prompt and question if the template has no system turn."""
_SENTINEL, _QUESTION = "flatprobe sentinel", "flatprobe question"
Message = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """The prompt of one completion: a persona's system prompt and the user's question."""

    persona: str
    system: str | None
    """None: no system message, the template decides. "": an empty system turn."""
    question_id: str
    question: str


@dataclass(frozen=True)
class SystemTurn:
    """Where a template puts a system prompt, and its default system prompt.

    `own`: in a separate turn. `folded_by_template`: the template writes it into the user's turn. `folded`: the template
    refuses it, so flatprobe writes it at the start of the user's turn, with a blank line before the question.
    """

    system: Literal["own", "folded_by_template", "folded"]
    default: str | None
    """The system prompt that the template adds if none is given; None: it adds none."""


class Conversations:
    """Renders and tokenises conversations for one tokenizer.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError.one(
                "model.no_chat_template",
                name,
                "the tokenizer has no chat template",
                "use an instruct model, or add chat_template.jinja",
            )
        self.tokenizer = tokenizer
        self.name = name

    def render(self, system: str | None, question: str) -> str:
        """The prompt's text, including the header of the assistant's turn.

        `system` None passes no system message, so the template uses its default, if any. "" is an empty system turn.
        """
        messages = [] if system is None else [{"role": "system", "content": system}]
        return self._render_prompt([*messages, {"role": "user", "content": question}])

    def _render_prompt(self, messages: Sequence[Message]) -> str:
        """The messages and the header of the following assistant's turn."""
        return self._apply(folded(messages) if self._folds else messages, add_generation_prompt=True)

    def _apply(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    @cached_property
    def _folds(self) -> bool:
        """Whether the template refuses a system message. `check_persona` catches one that drops it silently."""
        turns = [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": _QUESTION}]
        try:
            self._apply(turns, add_generation_prompt=True)
        except TemplateError:
            return True
        return False

    @cached_property
    def system_turn(self) -> SystemTurn:
        """Where the template puts a system prompt, and its default system prompt."""
        with_system, without = self.render(_SENTINEL, _QUESTION), self.render(None, _QUESTION)
        before, _, after = with_system.partition(_SENTINEL)
        between = after.partition(_QUESTION)[0]
        if self._folds:
            return SystemTurn("folded", None)
        if self.render(None, f"{_SENTINEL}{between}{_QUESTION}") == with_system:
            return SystemTurn("folded_by_template", None)
        long_enough = len(without) >= len(before) + len(after)
        has_default = long_enough and without.startswith(before) and without.endswith(after)
        return SystemTurn("own", without[len(before) : len(without) - len(after)] if has_default else None)

    def check_persona(self, persona: str, system: str | None) -> None:
        """Assert that the rendered text contains a persona's system prompt once and unchanged.

        Raises:
            UserError: the template drops, repeats or rewrites the prompt, or renders an empty one like none.
        """
        if system is None or self._renders_as_written(system):
            return
        raise UserError.one(
            "panel.prompt_changed",
            f"panel: {persona}",
            f"the chat template of {self.name} does not render its system prompt as written",
            "remove leading and trailing space from the prompt, or use a template with a system turn",
        )

    def _renders_as_written(self, system: str) -> bool:
        try:
            expected, text = self.render(_SENTINEL, "?"), self.render(system, "?")
        except TemplateError:
            return False
        unchanged = expected.count(_SENTINEL) == 1 and text == expected.replace(_SENTINEL, system)
        return unchanged and text != self.render(None, "?")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already contains its special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        return self.encode(self.render(prompt.system, prompt.question))

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], int]:
        """Tokens of prompt and answer, and the number of prompt tokens among them."""
        return self._encode_continuation(self.render(prompt.system, prompt.question), answer)

    def encode_messages(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """Tokens of a conversation up to the end of its last turn, and the number of tokens before that turn.

        Raises:
            ValueError: the last turn is not the assistant's.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("the conversation does not end with an assistant's turn")
        head, answer = self._render_prompt(messages[:-1]), messages[-1]["content"].strip()
        tokens, n_prompt = self._encode_continuation(head, answer)
        return [*tokens, self.turn_end], n_prompt

    def _encode_continuation(self, head: str, answer: str) -> tuple[list[int], int]:
        """Tokens of prompt and answer, and the number of prompt tokens.

        Both are tokenised as one text. If tokens would merge across the border, they are tokenised separately, as when
        the model sampled the answer after the prompt's tokens.
        """
        if not answer.startswith(self.lead):
            answer = self.lead + answer
        prompt = self.encode(head)
        tokens = self.encode(head + answer)
        if tokens[: len(prompt)] != prompt:
            tokens = [*prompt, *self.encode(answer)]
        return tokens, len(prompt)

    @cached_property
    def lead(self) -> str:
        """White space that the template writes between the assistant's header and its answer, or "".

        Example: the blank after Mistral's `[/INST]`. The model samples it, so it is part of the answer.
        """
        before_answer = self._answered.rpartition(_SENTINEL)[0]
        head = self.render(None, "?")
        lead = before_answer.removeprefix(head) if before_answer.startswith(head) else ""
        return lead if not lead.strip() else ""

    @cached_property
    def _answered(self) -> str:
        """A complete conversation whose answer is the sentinel."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        return self._apply(messages, add_generation_prompt=False)

    @cached_property
    def turn_end(self) -> int:
        """Id of the token that ends an assistant's turn, without the newline that some templates add.

        Raises:
            UserError: the turn does not end with a special token, or text other than white space follows that token.
        """
        after = self.encode(self._answered.rpartition(_SENTINEL)[2])
        if not after or after[0] not in self._special:
            raise UserError.one(
                "model.no_turn_end",
                f"{self.name}: chat template",
                "an assistant's turn does not end with a special token",
                "use a template that marks the end of a turn, for example with <|im_end|>",
            )
        if text := self.decode(after[1:]).strip():
            raise UserError.one(
                "model.text_after_turn",
                f"{self.name}: chat template",
                f"it adds text after the end of an assistant's turn: {text[:60]!r}",
                "use a template that adds only white space after the end of a turn",
            )
        return int(after[0])

    @cached_property
    def _special(self) -> frozenset[int]:
        """Ids of special tokens: those with a role, and those only marked as special (`<|end|>` of some models)."""
        marked = [id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        return frozenset([*self.tokenizer.all_special_ids, *marked])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens without the special ones. Spaces are not cleaned up."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token, including special ones, for display."""
        return [str(self.tokenizer.decode([t], clean_up_tokenization_spaces=False)) for t in tokens]


def folded(messages: Sequence[Message]) -> list[Message]:
    """The messages without system turns; each system prompt is written at the start of the next user's turn."""
    turns: list[Message] = []
    system = ""
    for message in messages:
        if message["role"] == "system":
            system += message["content"] + FOLD
        elif message["role"] == "user":
            turns.append({"role": "user", "content": system + message["content"]})
            system = ""
        else:
            turns.append(message)
    return turns


def load_conversations(folder: Path, name: str, place: str) -> Conversations:
    """Load the tokenizer in a folder and check its chat template. Imports `transformers`.

    Args:
        name: the model's name in messages.
        place: where the study names the model.

    Raises:
        UserError: there is no tokenizer or no template, or the template has no end of turn or prints the date.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError.one(
            "model.no_tokenizer", place, f"no tokenizer can be loaded from {folder}: {str(error).splitlines()[0]}"
        ) from error
    try:
        conversations = Conversations(tokenizer, name)
        _ = conversations.turn_end
    except UserError as error:
        raise UserError([replace(problem, place=place) for problem in error.problems]) from error
    if "strftime_now" in str(tokenizer.chat_template):
        raise UserError.one(
            "model.template_date",
            place,
            f"the chat template of {name} prints today's date, so prompts would change every day",
            "use a copy of the folder whose chat_template.jinja has a fixed date instead of strftime_now",
        )
    return conversations
