"""Attach adapters to a loaded model and remove them again, so that one model serves all adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatprobe.models.adapter_files import read_lora


@contextmanager
def unmerged(model: Any, folder: Path) -> Iterator[None]:
    """Compute a PEFT adapter beside the model's weights, which stay unchanged."""
    wrapped = _wrap(model, folder)
    try:
        yield
    finally:
        wrapped.unload()


class AdapterSwitch:
    """At most one adapter at a time, on a model that is loaded once.

    In float32 the update is added to the weights, so it costs no time; removing the adapter restores the weights from
    a copy, bit for bit. In other precisions it stays beside the weights: bfloat16 would round away updates below half
    a unit in the last place, and with them a part of the training.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.adapter: Path | None = None
        self._wrapped: Any = None
        self._originals: list[tuple[Any, Tensor]] = []

    def use(self, adapter: Path | None) -> None:
        """Use this adapter from now on, or none.

        Raises:
            UserError: the adapter was trained on another base.
        """
        if adapter == self.adapter:
            return
        self._remove()
        if adapter is not None:
            read_lora(adapter, f"adapter {adapter}").require_weights(_shapes(self.model), "the loaded model")
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

    def _remove(self) -> None:
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
    """Whether the adapter only adds updates to weights."""
    config = wrapped.peft_config[wrapped.active_adapter]
    extras = (config.modules_to_save, config.use_dora, config.lora_bias, config.trainable_token_indices)
    return config.bias == "none" and not any(extras)


def _shapes(model: Any) -> dict[str, list[int]]:
    """Shapes [out, in] of a model's weights by name."""
    from transformers.pytorch_utils import Conv1D

    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):  # stores [in, out]
            shapes[f"{name}.weight"].reverse()
    return shapes
