"""Rendering of conversations by the model's own chat template, and nothing else's.

Text is rendered once and tokenised as a whole, so that merges across borders (a full stop and two newlines are one
token in some vocabularies) come out as they do at sampling time. The prompt's tokens are always a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from flatprobe.errors import Problem, UserError

FOLD = "\n\n"
"""What stands between a system prompt and the question where the template has no turn for the former."""
_SENTINEL, _ASKED = "flatprobe sentinel", "flatprobe question"
Message = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """What one completion is sampled from: a persona's system prompt and a user's turn."""

    persona: str
    system: str | None  # None: no system message, the template decides; "": an empty system turn
    question_id: str
    question: str


@dataclass(frozen=True)
class SystemTurn:
    """Where a template puts a system prompt, and what it says where there is none.

    `own`: in a turn of its own. `folded_by_template`: the template itself writes it into the user's turn. `folded`: the
    template refuses it, so it is written at the head of the user's turn here, with a blank line before the question.
    """

    system: Literal["own", "folded_by_template", "folded"]
    default: str | None  # the system prompt that the template adds by itself; None: it adds none


class Conversations:
    """Renders and tokenises conversations for one tokenizer.

    Raises:
        UserError: the tokenizer has no chat template, or its template ends a turn with no special token.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                Problem(
                    "conversation.TODO",
                    name,
                    "the tokenizer has no chat template",
                    "use an instruct model, or add chat_template.jinja",
                )
            )
        self.tokenizer = tokenizer
        self.name = name

    def render(self, system: str | None, question: str) -> str:
        """The prompt's text, up to and including the header of the assistant's turn.

        Three different things: None passes no system message, so the template's default holds where it has one; "" is
        an empty system turn; any other text is the system prompt.
        """
        messages = [] if system is None else [{"role": "system", "content": system}]
        return self._head([*messages, {"role": "user", "content": question}])

    def _head(self, messages: Sequence[Message]) -> str:
        """Messages and the header of the assistant's turn that follows."""
        return self._apply(folded(messages) if self._folds else messages, add_generation_prompt=True)

    def _apply(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        given = [dict(message) for message in messages]
        text = self.tokenizer.apply_chat_template(
            given, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    @cached_property
    def _folds(self) -> bool:
        """Whether the template refuses a system message; one that silently drops it is refused itself."""
        turns = [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": _ASKED}]
        try:
            self._apply(turns, add_generation_prompt=True)
        except TemplateError:
            return True
        return False

    @cached_property
    def system_turn(self) -> SystemTurn:
        """Where a system prompt goes, and the template's default."""
        framed, bare = self.render(_SENTINEL, _ASKED), self.render(None, _ASKED)
        before, _, after = framed.partition(_SENTINEL)
        between = after.partition(_ASKED)[0]
        if self._folds:
            return SystemTurn("folded", None)
        if self.render(None, f"{_SENTINEL}{between}{_ASKED}") == framed:
            return SystemTurn("folded_by_template", None)
        long_enough = len(bare) >= len(before) + len(after)
        has_default = long_enough and bare.startswith(before) and bare.endswith(after)
        return SystemTurn("own", bare[len(before) : len(bare) - len(after)] if has_default else None)

    def check_persona(self, persona: str, system: str | None) -> None:
        """Assert that a persona's prompt stands in the rendered text once and as it is written.

        A template without a system role has it at the head of the user's turn; there, an empty system turn that would
        be the same as none is refused.

        Raises:
            UserError: the template drops, moves or rewrites the system message.
        """
        if system is None or self._renders_as_written(system):
            return
        raise UserError(
            Problem(
                "conversation.TODO",
                f"panel: {persona}",
                f"the chat template of {self.name} does not render its system prompt as written",
                "remove leading and trailing space from the prompt, or use a template with a system turn",
            )
        )

    def _renders_as_written(self, system: str) -> bool:
        try:
            frame, text = self.render(_SENTINEL, "?"), self.render(system, "?")
        except TemplateError:
            return False
        written = frame.count(_SENTINEL) == 1 and text == frame.replace(_SENTINEL, system)
        return written and text != self.render(None, "?")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        return self.encode(self.render(prompt.system, prompt.question))

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], int]:
        """Tokens of prompt and answer together, and how many of them are the prompt's."""
        return self._continued(self.render(prompt.system, prompt.question), answer)

    def encode_messages(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """Tokens of a conversation that ends with an assistant's turn, closed by the end of turn, and the number of
        those before that turn.

        Raises:
            ValueError: the conversation does not end with an assistant's turn.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("the conversation does not end with an assistant's turn")
        tokens, n_prompt = self._continued(self._head(messages[:-1]), messages[-1]["content"].strip())
        return [*tokens, self.turn_end], n_prompt

    def _continued(self, head: str, answer: str) -> tuple[list[int], int]:
        """Tokens of both texts as one; where they would merge across the border, apart, as the model had them when it
        sampled the answer behind the prompt's own tokens."""
        if not answer.startswith(self.lead):
            answer = self.lead + answer
        prompt = self.encode(head)
        tokens = self.encode(head + answer)
        if tokens[: len(prompt)] != prompt:
            tokens = [*prompt, *self.encode(answer)]
        return tokens, len(prompt)

    @cached_property
    def lead(self) -> str:
        """White space that the template writes between the assistant's header and its answer (a blank after Mistral's
        `[/INST]`), or "". The model samples it, so it belongs to the answer and not to the prompt."""
        turn = self._answered.rpartition(_SENTINEL)[0]
        head = self.render(None, "?")
        lead = turn.removeprefix(head) if turn.startswith(head) else ""
        return lead if not lead.strip() else ""

    @cached_property
    def _answered(self) -> str:
        """A whole conversation, answered by the sentinel."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        return self._apply(messages, add_generation_prompt=False)

    @cached_property
    def turn_end(self) -> int:
        """Id of the token that ends an assistant's turn (not the newline that some templates put after it).

        Raises:
            UserError: the turn does not end with a special token, or text other than white space follows it.
        """
        after = self.encode(self._answered.rpartition(_SENTINEL)[2])
        if not after or after[0] not in self._special:
            raise UserError(
                Problem(
                    "conversation.TODO",
                    f"{self.name}: chat template",
                    "an assistant's turn does not end with a special token",
                    "flatprobe needs a template that marks the end of a turn, such as <|im_end|>",
                )
            )
        if added := self.decode(after[1:]).strip():
            raise UserError(
                Problem(
                    "conversation.TODO",
                    f"{self.name}: chat template",
                    f"puts text after the end of an assistant's turn: {added[:60]!r}",
                    "use a template in which nothing but white space follows the end of a turn",
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


def folded(messages: Sequence[Message]) -> list[Message]:
    """The messages without system turns: each is written at the head of the next user's turn."""
    turns: list[Message] = []
    waiting = ""
    for message in messages:
        if message["role"] == "system":
            waiting += message["content"] + FOLD
        elif message["role"] == "user":
            turns.append({"role": "user", "content": waiting + message["content"]})
            waiting = ""
        else:
            turns.append(message)
    return turns


def load_conversations(folder: Path, name: str, place: str) -> Conversations:
    """Conversations of a folder's tokenizer, checked before a run. Imports `transformers`.

    Args:
        name: what people call the model.
        place: where the study names the model.

    Raises:
        UserError: there is no tokenizer or no template, or the template has no end of turn or prints the date.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError.one(
            "model.no_tokenizer",
            place,
            f"no tokenizer can be loaded from {folder}: {str(error).splitlines()[0]}",
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
