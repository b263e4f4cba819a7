"""Whether given checkpoints and adapters can stand beside the study's model. No weights are read.

Conditions are compared on the same prompts, layer by layer, so a given checkpoint must render them alike and have the
model's depth and width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open

from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.reference import PICKLED, read_config
from flatprobe.study.architecture import SIZES, architecture_problems
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import Persona
from flatprobe.study.tokenizers import load_conversations

_BLOCK = re.compile(r"\.layers\.(\d+)\.")


def given_problems(
    loaded: LoadedStudy, conversations: Conversations, config: Mapping[str, Any], folders: Mapping[str, Path]
) -> Iterator[Problem]:
    """What of the given conditions does not fit the model; `folders` holds each by its condition's name."""
    for name, folder in folders.items():
        condition = loaded.study.conditions[name]
        if condition.adapter is not None:
            yield from _adapter_problems(
                loaded, ("conditions", name, "adapter"), folder, int(config["num_hidden_layers"])
            )
        else:
            yield from _checkpoint_problems(
                loaded, ("conditions", name, "checkpoint"), folder, conversations, config
            )


def _checkpoint_problems(
    loaded: LoadedStudy,
    where: FieldPath,
    folder: Path,
    conversations: Conversations,
    config: Mapping[str, Any],
) -> Iterator[Problem]:
    place, model = loaded.place(*where), loaded.study.model.id
    if unreadable := architecture_problems(folder, place):
        yield from unreadable
        return
    try:
        own = read_config(folder, place)
        given = load_conversations(folder, folder.name, place)
    except UserError as error:
        yield from error.problems
        return
    for key, noun in SIZES.items():
        if own.get(key) != config.get(key):
            yield loaded.problem(
                "given.TODO", where, f"{dotted(where)}: has {own.get(key)} {noun}, and {model} has {config.get(key)}",
                "give a finetune of the study's model",
            )  # fmt: skip
    differing = [persona.name for persona in loaded.personas() if not _alike(persona, given, conversations)]
    if differing or given.turn_end != conversations.turn_end:
        what = f"the prompts of {', '.join(differing)}" if differing else "the end of a turn"
        yield loaded.problem(
            "given.TODO",
 where, f"{dotted(where)}: its chat template or tokenizer writes {what} otherwise than that of {model}",
            "use a copy of the checkpoint with the model's chat template and tokenizer",
        )  # fmt: skip


def _alike(persona: Persona, given: Conversations, conversations: Conversations) -> bool:
    """Whether a persona's prompt is the same tokens in both; texts may agree where tokens do not."""
    text = conversations.render(persona.system, "?")
    try:
        return given.render(persona.system, "?") == text and given.encode(text) == conversations.encode(text)
    except TemplateError:
        return False


def _adapter_problems(loaded: LoadedStudy, where: FieldPath, folder: Path, depth: int) -> Iterator[Problem]:
    """An adapter is a configuration and safetensors, of blocks that the model has."""
    try:
        configuration = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        configuration = None
    if not isinstance(configuration, dict):
        yield loaded.problem(
            "given.TODO",
 where, f"{dotted(where)}: no readable adapter_config.json in {folder}", "give a PEFT adapter's folder"
        )  # fmt: skip
    weights = folder / "adapter_model.safetensors"
    try:
        with safe_open(weights, framework="numpy") as file:
            blocks = [int(match[1]) for name in file.keys() if (match := _BLOCK.search(name))]  # noqa: SIM118
    except (OSError, SafetensorError):
        yield loaded.problem(
            "given.TODO", where, f"{dotted(where)}: no readable adapter_model.safetensors in {folder}",
            PICKLED,
        )  # fmt: skip
        return
    if blocks and max(blocks) >= depth:
        yield loaded.problem(
            "given.TODO",
 where, f"{dotted(where)}: adapts decoder block {max(blocks)}, and {loaded.study.model.id} has {depth}",
            "give an adapter of the study's model",
        )  # fmt: skip
