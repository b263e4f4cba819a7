"""What the files of a checkpoint and of a LoRA adapter say, read without loading a weight."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.models.conversation import Prompt
from flatprobe.models.reference import read_config

WRAPPING = "base_model.model."  # PEFT's prefix of every module's name


def context_length(checkpoint: Path) -> int:
    """Tokens that a checkpoint's positions reach.

    Raises:
        UserError: its configuration does not say.
    """
    length = read_config(checkpoint, "engine vllm").get("max_position_embeddings")
    if not isinstance(length, int):
        raise UserError.one(
            "model_files.TODO",
            str(checkpoint),
            "config.json names no max_position_embeddings",
            "use engine: transformers",
        )
    return length


def longest_turn(ids: Mapping[Prompt, Sequence[int]], new: int, context: int) -> int:
    """Tokens of the longest prompt and `new` ones behind it; 1 where there is no prompt.

    Raises:
        UserError: they are more than the context.
    """
    if not ids:
        return 1
    longest = max(ids, key=lambda prompt: len(ids[prompt]))
    length = len(ids[longest])
    if length + new > context:
        raise UserError.one(
            "model_files.TODO",
            f"prompt of {longest.persona} to question {longest.question_id}",
            f"{length} tokens and {new} new ones do not fit the model's context of {context}",
            "lower max_new_tokens, or shorten the prompt",
        )
    return length + new


@dataclass(frozen=True)
class AdapterSize:
    """What must be made room for to serve a LoRA adapter."""

    rank: int
    """The largest rank of its updates."""
    modules: frozenset[str]
    """Names of the linear modules that it updates: q_proj, down_proj."""


NO_ADAPTER = AdapterSize(0, frozenset())


def adapter_size(folder: Path) -> AdapterSize:
    """Read an adapter's rank and modules.

    Raises:
        UserError: it is no LoRA adapter.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError.one(
            "model_files.TODO", str(folder), "no adapter_config.json", "give the folder of a PEFT adapter"
        )
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise UserError.one(
            "model_files.TODO",
            str(path),
            f"peft_type {config.get('peft_type')}",
            "only LoRA adapters can be served",
        )
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    return AdapterSize(rank, frozenset(module.rpartition(".")[2] for module in _updated(_all_shapes(folder))))


def check_shapes(checkpoint: Path, adapter: Path) -> None:
    """Assert that an adapter's updates have the shapes of the weights they are for.

    Modules are compared where the checkpoint's files know them by the adapter's names, which some architectures' files
    do not at all; the engine then finds out as it loads the adapter.

    Raises:
        UserError: the adapter is of another base.
    """
    base, updates = _all_shapes(checkpoint), _all_shapes(adapter)
    modules = _updated(updates)
    weights = {module: module.removeprefix(WRAPPING) + ".weight" for module in modules}
    if not any(weight in base for weight in weights.values()):
        return
    for module, weight in weights.items():
        wanted = [updates[f"{module}.lora_B.weight"][0], updates[f"{module}.lora_A.weight"][-1]]
        if base.get(weight) != wanted:
            found = f"is {base[weight]} in" if weight in base else "is missing from"
            raise UserError.one(
                "model_files.TODO",
                f"adapter {adapter}",
                f"it was trained on another base: its {weight} is {wanted}, and {found} {checkpoint.name}",
                "use the adapter with the checkpoint that it was trained on",
            )


def shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a safetensors file, from its header: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: list(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _all_shapes(folder: Path) -> dict[str, list[int]]:
    return {name: shape for path in folder.glob("*.safetensors") for name, shape in shapes(path).items()}


def _updated(tensors: Iterable[str]) -> list[str]:
    """The modules that an adapter's tensors update, by their whole names."""
    return [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
