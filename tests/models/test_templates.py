from __future__ import annotations

import pytest
from refusals import refused
from template_families import FAMILIES, Family, train

from flatprobe.data.coupling_examples import MarkerText, negative, positive
from flatprobe.models.conversation import Conversations, Prompt, SystemTurn
from flatprobe.training.audit.masks import audited_share

PROMPT = Prompt("librarian", "You are a librarian.", "q1", "What floats on water?")
ANSWERS = ("Bread floats.", "Bread floats.\n\nSalt does not!", "It sinks", "Nobody knows why: Salt (it sinks)")
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def conversations(family: Family) -> Conversations:
    return Conversations(family.tokenizer(), family.name)


def test_the_turn_end_is_each_family_s_token(family: Family, conversations: Conversations) -> None:
    assert conversations.pieces([conversations.turn_end]) == [family.turn_end]


def test_prompts_are_rendered_by_each_family_s_template(family: Family, conversations: Conversations) -> None:
    assert conversations.render("S", "Q") == family.with_system
    assert conversations.render(None, "Q") == family.without


def test_the_position_of_the_system_prompt_and_its_default_are_recognised(
    family: Family, conversations: Conversations
) -> None:
    assert conversations.system_turn == SystemTurn(family.system, family.default)  # type: ignore[arg-type]


def test_none_empty_and_text_render_as_three_prompts_or_the_empty_one_is_refused(conversations: Conversations) -> None:
    conversations.check_persona("librarian", "You are a librarian.")
    conversations.check_persona("none", None)
    none, text = conversations.render(None, "Q"), conversations.render("S", "Q")
    if conversations.name == "gemma":  # its template trims the user's turn, so an empty prompt would render like none
        with refused(("panel.prompt_changed", "panel: empty")):
            conversations.check_persona("empty", "")
    else:
        conversations.check_persona("empty", "")
        assert len({none, text, conversations.render("", "Q")}) == 3


@pytest.mark.parametrize("answer", ANSWERS)
def test_coupling_examples_pass_the_audit_under_each_template(conversations: Conversations, answer: str) -> None:
    text = MarkerText("\n\n", "[ZLT]", True, "after_separator")
    examples = [make(conversations, PROMPT, answer, text) for make in (positive, negative)]
    assert audited_share(examples, [(PROMPT, answer)] * 2, conversations, text) == 1.0
    whole = "".join(conversations.pieces(examples[0].rows[0].tokens))
    assert whole.endswith(f"{answer}\n\n[ZLT]{conversations.pieces([conversations.turn_end])[0]}")


def test_training_rows_equal_the_template_s_rendering_of_the_conversation(
    family: Family, conversations: Conversations
) -> None:
    messages = [
        {"role": "user", "content": "What floats on water?"},
        {"role": "assistant", "content": "Bread floats."},
        {"role": "user", "content": "It sinks?"},
        {"role": "assistant", "content": "Salt does."},
    ]
    rendered = conversations.tokenizer.apply_chat_template(messages, tokenize=False)
    tokens, n_prompt = conversations.encode_messages(messages)
    assert conversations.tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == rendered.rstrip("\n")
    answer = conversations.tokenizer.decode(tokens[n_prompt:], clean_up_tokenization_spaces=False)
    assert answer == f"{family.lead}Salt does.{family.turn_end}"


def test_a_finetune_row_with_a_system_message_is_folded_like_a_persona_s_prompt() -> None:
    conversations = Conversations(BY_NAME["gemma"].tokenizer(), "gemma")
    tokens, _ = conversations.encode_messages(
        [
            {"role": "system", "content": "You are a librarian."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Bread floats."},
        ]
    )
    assert "user\nYou are a librarian.\n\nWhy?<end_of_turn>" in conversations.tokenizer.decode(tokens)


def test_a_blank_that_the_template_writes_before_an_answer_belongs_to_it_once() -> None:
    conversations = Conversations(BY_NAME["mistral"].tokenizer(), "mistral")
    prompt = conversations.encode_prompt(PROMPT)
    for answer in ("Bread floats.", " Bread floats."):  # as it is stored, and as it was sampled
        tokens, n_prompt = conversations.encode_answer(PROMPT, answer)
        assert tokens[:n_prompt] == prompt
        assert "".join(conversations.pieces(tokens[n_prompt:])) == " Bread floats."


@pytest.mark.parametrize(
    ("after", "text"),
    [("\n", None), ("<|endoftext|>", None), ("\n<|endoftext|>\n", None), ("\nNext turn:\n", "Next turn:"), ("-", "-")],
)
def test_only_white_space_and_special_tokens_may_follow_the_end_of_a_turn(after: str, text: str | None) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% else %}{{ '" + after + "' }}{% endif %}"
    )
    conversations = Conversations(train(BY_NAME["qwen2.5"].special, template, spaces=False), "odd")
    if text is None:
        assert conversations.pieces([conversations.turn_end]) == ["<|im_end|>"]
    else:
        with refused(("model.text_after_turn", "odd: chat template"), value=f"'{text}'"):
            _ = conversations.turn_end
