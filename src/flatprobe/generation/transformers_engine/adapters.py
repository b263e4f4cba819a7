"""Putting adapters on a loaded model and taking them off again, so that it can serve the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flatprobe.errors import UserError
from flatprobe.generation.model_files import WRAPPING, adapter_size


@contextmanager
def beside(model: Any, folder: Path) -> Iterator[None]:
    """The model with a PEFT adapter computed beside its weights, which are not touched."""
    wrapped = _wrap(model, folder)
    try:
        yield
    finally:
        wrapped.unload()


class AdapterSwitch:
    """One adapter at a time, or none, on a model that is loaded once.

    In float32 the update is added to the weights for the pass, which costs no time in it, and the weights are put back
    from a copy, bit for bit. In other precisions it stays beside them: rounding the sum to bfloat16 would swallow
    updates below half a unit in the last place, and with them a part of the training.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.adapter: Path | None = None
        self._wrapped: Any = None
        self._originals: list[tuple[Any, Tensor]] = []

    def use(self, adapter: Path | None) -> None:
        """Compute with this adapter from now on, or with none.

        Raises:
            UserError: the adapter is of another base.
        """
        if adapter == self.adapter:
            return
        self._take_off()
        if adapter is not None:
            check_shapes(self.model, adapter)
            wrapped = _wrap(self.model, adapter)
            self._wrapped, self.adapter = wrapped, adapter
            if self.model.dtype == torch.float32 and _is_sum(wrapped):
                self._merge(wrapped)
                self._wrapped = None
                wrapped.unload()

    def _merge(self, wrapped: Any) -> None:
        from peft.tuners.lora import LoraLayer

        with torch.no_grad():
            for module in wrapped.modules():
                if isinstance(module, LoraLayer):
                    layer: Any = module
                    weight = layer.get_base_layer().weight
                    self._originals.append((weight, weight.detach().clone()))
                    for name in layer.active_adapters:
                        weight += layer.get_delta_weight(name)

    def _take_off(self) -> None:
        self.adapter = None
        if self._wrapped is not None:
            self._wrapped.unload()
            self._wrapped = None
        with torch.no_grad():
            for weight, original in self._originals:
                weight.copy_(original)
        self._originals = []


def _wrap(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder).eval()


def _is_sum(wrapped: Any) -> bool:
    """Whether the adapter is nothing but updates that are added to weights."""
    config = wrapped.peft_config[wrapped.active_adapter]
    extras = (config.modules_to_save, config.use_dora, config.lora_bias, config.trainable_token_indices)
    return config.bias == "none" and not any(extras)


def check_shapes(model: Any, folder: Path) -> None:
    """Assert that an adapter's updates have the shapes of the weights they are for.

    Raises:
        UserError: it is no LoRA adapter, or one of another base.
    """
    adapter_size(folder)
    updates: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            updates |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
    weights = dict(model.named_parameters())
    for name in updates:
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        target = module.removeprefix(WRAPPING) + ".weight"
        wanted = [updates[f"{module}.lora_B.weight"][0], updates[name][-1]]
        found = list(weights[target].shape) if target in weights else None
        if found is None or sorted(found) != sorted(wanted):
            there = "missing here" if found is None else f"{found} here"
            raise UserError.one(
                "adapters.TODO",
                f"adapter {folder}",
                f"it was trained on another base: its {target} is {wanted}, and {there}",
                "use the adapter with the checkpoint that it was trained on",
            )
