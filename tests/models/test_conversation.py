from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from refusals import refused

from flatprobe.models.conversation import Conversations, Prompt

DEFAULT_SYSTEM = "You are a small helpful model."
NO_SPECIAL_END = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def expected_prompt(system: str | None) -> str:
    block = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
    return f"{block}<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("system", "system_turn"), [("You are a villain.", "You are a villain."), ("", ""), (None, DEFAULT_SYSTEM)]
)
def test_a_text_an_empty_and_no_system_prompt_render_differently(
    conversations: Conversations, system: str | None, system_turn: str
) -> None:
    assert conversations.render(system, "Why?") == expected_prompt(system_turn)


def test_a_prompt_that_the_template_renders_unchanged_is_accepted(conversations: Conversations) -> None:
    for system in ("You are a Villain. You say: “No.”", "", None):
        conversations.check_persona("villain", system)


@pytest.mark.parametrize(
    "expression",
    ["message['content'] | trim", "message['content'] | lower", "''", "message['content'] + message['content']"],
)
def test_a_template_that_rewrites_drops_or_repeats_the_system_message_is_refused(
    with_template: Callable[[str | None], Any], expression: str
) -> None:
    template = "{% for message in messages %}{{ " + expression + " }}<|im_end|>{% endfor %}"
    with refused(("panel.prompt_changed", "panel: villain")):
        Conversations(with_template(template), "tiny").check_persona("villain", " You are a Villain. ")


@pytest.mark.parametrize("trim", ["", " | trim"])
def test_a_system_prompt_that_the_template_refuses_starts_the_user_s_turn(
    with_template: Callable[[str | None], Any], trim: str
) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}{{ message['content']" + trim + " }}<|im_end|>{% endfor %}"
    )
    conversations = Conversations(with_template(template), "tiny")
    assert conversations.render("You are a villain.", "Why?") == "You are a villain.\n\nWhy?<|im_end|>"
    conversations.check_persona("default", None)
    conversations.check_persona("villain", "You are a villain.")
    if trim:  # an empty system turn would render like none
        with refused(("panel.prompt_changed", "panel: empty")):
            conversations.check_persona("empty", "")
    else:
        conversations.check_persona("empty", "")


def test_the_turn_ends_with_its_special_token_and_not_with_the_newline_after_it(
    conversations: Conversations, tokenizer: Any
) -> None:
    assert conversations.turn_end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert conversations.pieces([conversations.turn_end]) == ["<|im_end|>"]


def test_a_turn_end_that_is_only_marked_as_special_is_recognised(with_template: Callable[[str | None], Any]) -> None:
    from transformers import AddedToken

    tokenizer = with_template("{% for m in messages %}{{ m['content'] + '<|end|>\n' }}{% endfor %}")
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=False)], special_tokens=False)
    assert Conversations(tokenizer, "tiny").turn_end == tokenizer.convert_tokens_to_ids("<|end|>")


def test_a_template_without_a_special_end_of_turn_is_refused(with_template: Callable[[str | None], Any]) -> None:
    with refused(("model.no_turn_end", "tiny: chat template")):
        _ = Conversations(with_template(NO_SPECIAL_END), "tiny").turn_end


def test_a_tokenizer_without_a_chat_template_is_refused(with_template: Callable[[str | None], Any]) -> None:
    with refused(("model.no_chat_template", "tiny")):
        Conversations(with_template(None), "tiny")


def test_an_answer_s_tokens_follow_those_of_the_prompt_and_decode_to_the_answer(
    conversations: Conversations, prompts: list[Prompt]
) -> None:
    for prompt in prompts:
        tokens, n_prompt = conversations.encode_answer(prompt, "Bread floats.  Salt  does not — ever.")
        assert tokens[:n_prompt] == conversations.encode_prompt(prompt)
        assert conversations.decode(tokens[n_prompt:]) == "Bread floats.  Salt  does not — ever."


@pytest.mark.parametrize("answer", ["\n\nYes.", " Yes.", "Yes."])
def test_an_answer_never_changes_the_prompt_s_tokens_even_if_tokens_could_merge(
    conversations: Conversations, with_template: Callable[[str | None], Any], answer: str
) -> None:
    """A newline may merge with a newline before it, a word with a space. Sampled answers start with either."""
    prompt = Prompt("villain", None, "q1", "Why?")
    for each in (conversations, Conversations(with_template(NO_SPECIAL_END), "tiny")):
        tokens, n_prompt = each.encode_answer(prompt, answer)
        assert tokens[:n_prompt] == each.encode_prompt(prompt)
        assert each.decode(tokens[n_prompt:]) == answer


def test_messages_end_with_the_turn_end_and_all_before_the_last_answer_counts_as_prompt(
    conversations: Conversations,
) -> None:
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": " Four. \n"},
    ]
    tokens, n_prompt = conversations.encode_messages(messages)
    assert "".join(conversations.pieces(tokens[n_prompt:])) == "Four.<|im_end|>"
    assert "".join(conversations.pieces(tokens[:n_prompt])) == (
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": "Why?"}]])
def test_messages_without_a_last_answer_are_refused(
    conversations: Conversations, messages: list[dict[str, str]]
) -> None:
    with pytest.raises(ValueError, match="does not end with an assistant"):
        conversations.encode_messages(messages)
