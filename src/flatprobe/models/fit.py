"""Whether checkpoints, adapters and prompts fit together. Reads configurations and tensor headers, never weights.

States are compared token by token and layer by layer. So two checkpoints need the same depth and width, and must turn
every persona and question into the same tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open

from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.reference import PICKLED, read_config

SIZES = {"num_hidden_layers": "decoder blocks", "hidden_size": "dimensions"}
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of the model's modules."""
TRAINED_WITH = "use the adapter with the checkpoint that it was trained on"
_CONTEXT = "max_position_embeddings"
_OTHER_INPUTS = ("vision_config", "audio_config", "speech_config", "video_config")
_BLOCK = re.compile(r"\.layers\.(\d+)\.")
_FROM_HIDDEN = frozenset(["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"])
_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"
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


def size_problems(
    config: Mapping[str, Any], base: Mapping[str, Any], place: str, base_name: str
) -> list[Problem]:
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
        part = "tokenizer" if same_template(conversations, base) else "chat template"
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


def same_template(one: Conversations, other: Conversations) -> bool:
    """Whether two chat templates have the same text; templates that differ may still render the same prompts."""
    return bool(one.tokenizer.chat_template == other.tokenizer.chat_template)


def _same_prompts(
    one: Conversations, other: Conversations, system: str | None, questions: Sequence[str]
) -> bool:
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
            "model.context_length",
            str(checkpoint),
            f"config.json lacks {_CONTEXT}",
            "use engine: transformers",
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


# --- adapters


@dataclass(frozen=True)
class LoraFiles:
    """What a LoRA adapter's files say about it."""

    place: str
    rank: int
    """The largest rank of its updates."""
    updates: Mapping[str, list[int]]
    """Name of each updated weight in the base, and the shape [out, in] of its update."""

    @property
    def modules(self) -> frozenset[str]:
        """Names of the updated linear modules: q_proj, down_proj."""
        return frozenset(weight.split(".")[-2] for weight in self.updates)

    def require_weights(self, shapes: Mapping[str, Sequence[int]], base_name: str) -> None:
        """Assert that the base has every updated weight, in the shape of its update.

        Raises:
            UserError: the adapter was trained on another base.
        """
        for weight, shape in self.updates.items():
            if weight not in shapes or list(shapes[weight]) != shape:
                found = f"{list(shapes[weight])} in" if weight in shapes else "missing from"
                raise UserError.one(
                    "adapter.other_base",
                    self.place,
                    f"it was trained on another base: its {weight} is {shape}, but {found} {base_name}",
                    TRAINED_WITH,
                )

    def require_checkpoint(self, checkpoint: Path) -> None:
        """The same for the files of a checkpoint.

        Not checked if they know none of the weights by these names, as for some architectures; the engine then notices
        when it loads the adapter.

        Raises:
            UserError: the adapter was trained on another base.
        """
        shapes = {k: v for path in checkpoint.glob("*.safetensors") for k, v in tensor_shapes(path).items()}
        if not shapes.keys().isdisjoint(self.updates):
            self.require_weights(shapes, checkpoint.name)


def read_lora(folder: Path, place: str) -> LoraFiles:
    """Read a LoRA adapter's files.

    Raises:
        UserError: a file is missing or unreadable, or the adapter is of another type.
    """
    config = adapter_config(folder, place)
    if config.get("peft_type") != "LORA":
        message = f"peft_type is {config.get('peft_type')} in {folder / 'adapter_config.json'}"
        raise UserError.one("adapter.not_lora", place, message, "give a LoRA adapter")
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    shapes = adapter_shapes(folder, place)
    modules = [name.removesuffix(_LORA_A) for name in shapes if name.endswith(_LORA_A)]
    updates = {
        f"{module.removeprefix(PEFT_PREFIX)}.weight": [
            shapes[module + _LORA_B][0],
            shapes[module + _LORA_A][-1],
        ]
        for module in modules
    }
    return LoraFiles(place, rank, updates)


def adapter_problems(folder: Path, base: Mapping[str, Any], place: str, base_name: str) -> list[Problem]:
    """Why an adapter does not fit a base with this config.json: unreadable files, deeper blocks, another width."""
    problems: list[Problem] = []
    shapes: dict[str, list[int]] = {}
    try:
        adapter_config(folder, place)
    except UserError as error:
        problems += error.problems
    try:
        shapes = adapter_shapes(folder, place)
    except UserError as error:
        problems += error.problems
    depth, width, remedy = base["num_hidden_layers"], base["hidden_size"], f"give an adapter of {base_name}"
    blocks = [int(match[1]) for name in shapes if (match := _BLOCK.search(name))]
    if blocks and max(blocks) >= depth:
        message = f"adapts decoder block {max(blocks)}, and {base_name} has {depth} blocks"
        problems.append(Problem("adapter.other_base", place, message, remedy))
    widths = {
        shape[1]
        for name, shape in shapes.items()
        if name.endswith(_LORA_A) and name.removesuffix(_LORA_A).rpartition(".")[2] in _FROM_HIDDEN
    }
    if widths - {width}:
        message = f"adapts {min(widths - {width})} dimensions, and {base_name} has {width}"
        problems.append(Problem("adapter.other_base", place, message, remedy))
    return problems


def adapter_config(folder: Path, place: str) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        UserError: it is missing or no JSON object.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        message = f"no readable adapter_config.json in {folder}"
        raise UserError.one("adapter.no_config", place, message, "give a PEFT adapter's folder")
    return config


def adapter_shapes(folder: Path, place: str) -> dict[str, list[int]]:
    """Names and shapes of an adapter's tensors.

    Raises:
        UserError: there is no readable safetensors file.
    """
    try:
        return tensor_shapes(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError):
        message = f"no readable adapter_model.safetensors in {folder}"
        raise UserError.one("adapter.no_weights", place, message, PICKLED) from None


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a safetensors file."""
    with safe_open(path, framework="numpy") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
