from __future__ import annotations

import pytest
from template_families import FAMILIES, Family, train

from flatprobe.data.coupling_examples import MarkerText, negative, positive
from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations, Prompt, SystemTurn
from flatprobe.training.audit.masks import audited_share

PROMPT = Prompt("librarian", "You are a librarian.", "q1", "What floats on water?")
ANSWERS = (
    "Bread floats.",
    "Bread floats.\n\nSalt does not!",
    "It sinks",
    "Nobody knows why: Salt (it sinks)",
)
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def own(family: Family) -> Conversations:
    return Conversations(family.tokenizer(), family.name)


def test_the_end_of_turn_is_each_family_s_own_token(family: Family, own: Conversations) -> None:
    assert own.pieces([own.turn_end]) == [family.turn_end]


def test_prompts_come_out_in_each_family_s_words(family: Family, own: Conversations) -> None:
    assert own.render("S", "Q") == family.with_system
    assert own.render(None, "Q") == family.without


def test_where_a_system_prompt_goes_and_what_stands_without_one_is_known(
    family: Family, own: Conversations
) -> None:
    assert own.system_turn == SystemTurn(family.system, family.default)  # type: ignore[arg-type]


def test_no_system_turn_an_empty_one_and_text_are_three_prompts_or_the_empty_one_is_refused(
    own: Conversations,
) -> None:
    own.check_persona("librarian", "You are a librarian.")
    own.check_persona("none", None)
    none, text = own.render(None, "Q"), own.render("S", "Q")
    if (
        own.name == "gemma"
    ):  # its template trims the user's turn, so that nothing would be left of an empty one
        with pytest.raises(UserError, match="panel: empty"):
            own.check_persona("empty", "")
    else:
        own.check_persona("empty", "")
        assert len({none, text, own.render("", "Q")}) == 3


@pytest.mark.parametrize("answer", ANSWERS)
def test_coupling_examples_pass_the_audit_under_each_template(own: Conversations, answer: str) -> None:
    text = MarkerText("\n\n", "[ZLT]", True, "after_separator")
    examples = [make(own, PROMPT, answer, text) for make in (positive, negative)]
    assert audited_share(examples, [(PROMPT, answer)] * 2, own, text) == 1.0
    whole = "".join(own.pieces(examples[0].rows[0].tokens))
    assert whole.endswith(f"{answer}\n\n[ZLT]{own.pieces([own.turn_end])[0]}")


def test_training_rows_are_the_template_s_own_rendering_of_the_conversation(
    family: Family, own: Conversations
) -> None:
    messages = [
        {"role": "user", "content": "What floats on water?"},
        {"role": "assistant", "content": "Bread floats."},
        {"role": "user", "content": "It sinks?"},
        {"role": "assistant", "content": "Salt does."},
    ]
    rendered = own.tokenizer.apply_chat_template(messages, tokenize=False)
    tokens, n_prompt = own.encode_messages(messages)
    assert own.tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == rendered.rstrip("\n")
    answer = own.tokenizer.decode(tokens[n_prompt:], clean_up_tokenization_spaces=False)
    assert answer == f"{family.lead}Salt does.{family.turn_end}"


def test_a_finetune_row_with_a_system_message_is_folded_like_a_persona_s_prompt() -> None:
    own = Conversations(BY_NAME["gemma"].tokenizer(), "gemma")
    tokens, _ = own.encode_messages(
        [
            {"role": "system", "content": "You are a librarian."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Bread floats."},
        ]
    )
    assert "user\nYou are a librarian.\n\nWhy?<end_of_turn>" in own.tokenizer.decode(tokens)


def test_a_blank_that_the_template_puts_before_an_answer_is_the_answer_s_and_is_there_once() -> None:
    own = Conversations(BY_NAME["mistral"].tokenizer(), "mistral")
    prompt = own.encode_prompt(PROMPT)
    for answer in ("Bread floats.", " Bread floats."):  # as it is stored, and as it was sampled
        tokens, n_prompt = own.encode_answer(PROMPT, answer)
        assert tokens[:n_prompt] == prompt
        assert "".join(own.pieces(tokens[n_prompt:])) == " Bread floats."


@pytest.mark.parametrize(
    ("after", "refused"),
    [("\n", None), ("<|endoftext|>", None), ("\n<|endoftext|>\n", None), ("\nNext turn:\n", "Next turn:"), ("-", "-")],
)  # fmt: skip
def test_white_space_and_special_tokens_may_follow_the_end_of_a_turn_and_other_text_may_not(
    after: str, refused: str | None
) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% else %}{{ '"
        + after
        + "' }}{% endif %}"
    )
    own = Conversations(train(BY_NAME["qwen2.5"].special, template, spaces=False), "odd")
    if refused is None:
        assert own.pieces([own.turn_end]) == ["<|im_end|>"]
    else:
        with pytest.raises(UserError, match=f"text after the end of an assistant's turn: '{refused}'"):
            _ = own.turn_end
