"""Whether an adapter fits a base, from its configuration and the shapes of its tensors. Reads no weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from flatprobe.errors import Problem, UserError
from flatprobe.models.reference import PICKLED

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of the model's modules."""
_BLOCK = re.compile(r"\.layers\.(\d+)\.")
_FROM_HIDDEN = frozenset(["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"])
_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"


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
                in_base = f"{list(shapes[weight])} in" if weight in shapes else "missing from"
                raise UserError.one(
                    "adapter.other_base",
                    self.place,
                    f"it was trained on another base: its {weight} is {shape}, but {in_base} {base_name}",
                    "use the adapter with the checkpoint that it was trained on",
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
        f"{module.removeprefix(PEFT_PREFIX)}.weight": [shapes[module + _LORA_B][0], shapes[module + _LORA_A][-1]]
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
