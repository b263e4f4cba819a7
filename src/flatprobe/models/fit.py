"""Whether checkpoints fit together, and prompts the context. Reads configurations and tokenizers, never weights.

States are compared token by token and layer by layer. So two checkpoints need the same depth and width, and must turn
every persona and question into the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.reference import read_config

SIZES = {"num_hidden_layers": "decoder blocks", "hidden_size": "dimensions"}
_CONTEXT = "max_position_embeddings"
_OTHER_INPUTS = ("vision_config", "audio_config", "speech_config", "video_config")
_NAMES_LISTED = 3  # before "and N more"


# --- checkpoints


def architecture_problems(folder: Path, place: str) -> list[Problem]:
    """Why flatprobe cannot read a model's states: it is no decoder-only model of text."""
    code, remedy = "model.architecture", "flatprobe reads decoder-only chat models of text"
    try:
        flat = read_config(folder, place)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except UserError as error:
        return list(error.problems)
    name = f"{config.get('model_type', 'this model')}"
    if config.get("is_encoder_decoder"):
        return [Problem(code, place, f"{name} is an encoder-decoder model", remedy)]
    if inputs := [key.removesuffix("_config") for key in _OTHER_INPUTS if config.get(key)]:
        return [Problem(code, place, f"{name} is multimodal ({', '.join(inputs)})", remedy)]
    if not all(isinstance(flat.get(key), int) for key in SIZES):
        return [Problem(code, place, f"{name}: config.json lacks {' or '.join(SIZES)}", remedy)]
    return []


def size_problems(config: Mapping[str, Any], base: Mapping[str, Any], place: str, base_name: str) -> list[Problem]:
    """Depth and width of a checkpoint that differ from the base's."""
    return [
        Problem(
            "checkpoint.size",
            place,
            f"has {config.get(key)} {noun}, and {base_name} has {base.get(key)}",
            f"give a finetune of {base_name}",
        )
        for key, noun in SIZES.items()
        if config.get(key) != base.get(key)
    ]


def rendering_problems(
    conversations: Conversations,
    base: Conversations,
    systems: Mapping[str, str | None],
    questions: Sequence[str],
    place: str,
    base_name: str,
) -> list[Problem]:
    """Where a checkpoint's chat template or tokenizer differs from the base's.

    `systems` maps each persona to its system prompt. Added tokens may differ: many checkpoints add a padding token
    that no text contains.
    """
    remedy = f"use a copy of the checkpoint with the chat template and tokenizer of {base_name}"
    problems = []
    if differing := [n for n, s in systems.items() if not _same_prompts(conversations, base, s, questions)]:
        same_template = conversations.tokenizer.chat_template == base.tokenizer.chat_template
        part = "tokenizer" if same_template else "chat template"
        message = f"its {part} renders the prompts of {_some(differing)} differently from {base_name}"
        problems.append(Problem("checkpoint.prompts", place, message, remedy))
    if conversations.turn_end != base.turn_end:
        ours, theirs = (c.pieces([c.turn_end])[0] for c in (conversations, base))
        message = f"ends a turn with {ours!r}, and {base_name} with {theirs!r}"
        problems.append(Problem("checkpoint.turn_end", place, message, remedy))
    if tokens := _differing_tokens(conversations, base):
        message = f"its tokenizer and that of {base_name} differ in {len(tokens):,} tokens: {_some(tokens)}"
        problems.append(Problem("checkpoint.vocabulary", place, message, remedy))
    return problems


def _same_prompts(one: Conversations, other: Conversations, system: str | None, questions: Sequence[str]) -> bool:
    """Whether both give the same text and the same tokens."""
    try:
        for question in questions:
            text = one.render(system, question)
            if other.render(system, question) != text or other.encode(text) != one.encode(text):
                return False
    except TemplateError:
        return False
    return True


def _differing_tokens(one: Conversations, other: Conversations) -> list[str]:
    """Tokens whose id differs, or that only one tokenizer has."""
    ours, theirs = (_vocabulary(conversations) for conversations in (one, other))
    return sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))


def _vocabulary(conversations: Conversations) -> dict[str, int]:
    tokenizer = conversations.tokenizer
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return {token: id for token, id in tokenizer.get_vocab().items() if token not in added}


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - _NAMES_LISTED
    listed = ", ".join(names[:_NAMES_LISTED])
    return f"{listed} and {more:,} more" if more > 0 else listed


# --- prompts and the context


def context_length(config: Any) -> int | None:
    """The model's context in tokens; None if its configuration gives none.

    `config` is config.json's content or the text configuration of a loaded model.
    """
    length = config.get(_CONTEXT) if isinstance(config, Mapping) else getattr(config, _CONTEXT, None)
    return length if isinstance(length, int) else None


def require_context_length(checkpoint: Path) -> int:
    """The context of a checkpoint's folder, in tokens.

    Raises:
        UserError: its configuration gives none.
    """
    length = context_length(read_config(checkpoint, str(checkpoint)))
    if length is None:
        raise UserError.one(
            "model.context_length", str(checkpoint), f"config.json lacks {_CONTEXT}", "use engine: transformers"
        )
    return length


def longest_turn(ids: Mapping[Prompt, Sequence[int]], new: int, context: int | None) -> int:
    """Tokens of the longest prompt plus `new`; 1 without prompts. `ids` holds the token ids of each prompt.

    Raises:
        UserError: that exceeds the context; None sets no limit.
    """
    if not ids:
        return 1
    longest = max(ids, key=lambda prompt: len(ids[prompt]))
    length = len(ids[longest])
    if context is not None and length + new > context:
        raise UserError.one(
            "context.exceeded",
            f"prompt of {longest.persona} to question {longest.question_id}",
            f"{length} tokens plus {new} new ones exceed the model's context of {context}",
            "lower max_new_tokens, or shorten the prompt",
        )
    return length + new
