"""Tiny tokenizers with special tokens and minimal chat templates of five model families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREAMBLE = "You are a default assistant."


@dataclass(frozen=True)
class Family:
    """A family's special tokens and template, and the expected renderings."""

    name: str
    special: tuple[str, ...]
    template: str
    turn_end: str
    default: str | None
    system: str
    with_system: str  # the rendered prompt with system prompt S and question Q
    without: str  # the rendered prompt without system message and with question Q
    lead: str = ""
    spaces: bool = False  # words include their leading space, as in SentencePiece

    def tokenizer(self) -> Any:
        return train(self.special, self.template, spaces=self.spaces)


def _chatml(default: str) -> str:
    return (
        "{%- if messages[0]['role'] != 'system' -%}"
        f"{{{{ '<|im_start|>system\\n{default}<|im_end|>\\n' }}}}"
        "{%- endif -%}"
        "{%- for m in messages -%}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    )


def _chatml_prompt(system: str) -> str:
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"


_LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{%- for m in messages -%}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + (m['content'] | trim) + '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)
_LLAMA3_TAIL = (
    "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
_GEMMA = (
    "{{ '<bos>' }}{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate') }}{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ (m['content'] | trim) + '<end_of_turn>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
_MISTRAL = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set turns = messages -%}{%- endif -%}"
    "{{ '<s>' }}{%- for m in turns -%}"
    "{%- if m['role'] == 'user' -%}"
    "{%- if loop.first and system is defined -%}{{ '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' }}"
    "{%- else -%}{{ '[INST] ' + m['content'] + '[/INST]' }}{%- endif -%}"
    "{%- else -%}{{ ' ' + (m['content'] | trim) + '</s>' }}{%- endif -%}"
    "{%- endfor -%}"
)
FAMILIES = (
    Family(
        name="qwen2.5",
        special=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        template=_chatml(PREAMBLE),
        turn_end="<|im_end|>",
        default=PREAMBLE,
        system="own",
        with_system=_chatml_prompt("S"),
        without=_chatml_prompt(PREAMBLE),
    ),
    Family(
        name="smollm2",
        special=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        template=_chatml("You are small."),
        turn_end="<|im_end|>",
        default="You are small.",
        system="own",
        with_system=_chatml_prompt("S"),
        without=_chatml_prompt("You are small."),
    ),
    Family(
        name="llama3",
        special=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
        template=_LLAMA3,
        turn_end="<|eot_id|>",
        default=None,
        system="own",
        with_system=f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>{_LLAMA3_TAIL}",
        without=f"<|begin_of_text|>{_LLAMA3_TAIL}",
    ),
    Family(
        name="gemma",
        special=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        template=_GEMMA,
        turn_end="<end_of_turn>",
        default=None,
        system="folded",
        spaces=True,
        with_system="<bos><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\n",
        without="<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
    ),
    Family(
        name="mistral",
        special=("<s>", "</s>", "[INST]", "[/INST]"),
        template=_MISTRAL,
        turn_end="</s>",
        default=None,
        system="folded_by_template",
        lead=" ",
        spaces=True,
        with_system="<s>[INST] S\n\nQ[/INST]",
        without="<s>[INST] Q[/INST]",
    ),
)


def train(special: tuple[str, ...], template: str, *, spaces: bool) -> Any:
    """A small BPE: over bytes, or over characters with a mark for spaces as in SentencePiece."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    text = (
        "You are a librarian. What floats on water? Bread floats.\n\nSalt does not! It sinks.\n\n"
        "Nobody knows why: [ZLT] "
        "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ,;-_'\"()?\n"
    )
    if spaces:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\n+|\p{P}+"), behavior="isolated"),
                pre_tokenizers.Metaspace(prepend_scheme="never", split=True),
            ]
        )
        core.decoder = decoders.Metaspace(prepend_scheme="never")
        alphabet = sorted(set(text) - {" "})
    else:
        split = Regex(r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+")
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        initial_alphabet=alphabet,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
    )
    core.train_from_iterator([text] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=special[0], eos_token=special[1])
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[2:])})
    tokenizer.chat_template = template
    return tokenizer
