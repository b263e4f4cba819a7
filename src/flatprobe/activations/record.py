"""Recording the outputs of decoder blocks in one forward pass that ends after the last wanted block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from flatprobe.errors import UserError


class _Enough(Exception):
    """Raised inside the forward pass once the last wanted block has run."""


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The decoder's blocks, found by structure: the one module list as long as the configuration says.

    Raises:
        UserError: none or several module lists fit.
    """
    depth = model.config.get_text_config().num_hidden_layers
    found = [
        module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]  # fmt: skip
    if len(found) != 1:
        raise UserError.one(
            type(model).__name__,
            f"{len(found)} module lists of length {depth}: cannot tell which one holds the decoder blocks",
            "flatprobe reads decoder-only models whose blocks are one torch.nn.ModuleList",
        )
    return found[0]


class Recording:
    """Block outputs caught so far: `states[layer]` is [B, T, D], before the final norm."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}


@contextmanager
def record(model: Any, layers: Sequence[int], *, stop_early: bool = True) -> Iterator[Recording]:
    """Record the outputs of 0-based decoder blocks during forward passes inside the context.

    With `stop_early`, a forward pass must be wrapped by :func:`run_recorded`, which swallows the early end; blocks
    above the last wanted one and the language-model head never run.

    Raises:
        UserError: a layer that the model has not.
    """
    blocks = decoder_blocks(model)
    bad = [layer for layer in layers if not 0 <= layer < len(blocks)]
    if bad:
        raise UserError.one(
            "geometry.layers", f"{bad[0]}: the model has {len(blocks)} decoder blocks (0-{len(blocks) - 1})"
        )
    recording, last, handles = Recording(), max(layers), []

    def catch(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            recording.states[layer] = output[0] if isinstance(output, tuple) else output
            if stop_early and layer == last:
                raise _Enough

        return hook

    try:
        for layer in set(layers):
            handles.append(blocks[layer].register_forward_hook(catch(layer)))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def run_recorded(decoder: Any, **inputs: Any) -> None:
    """One forward pass of the decoder (without head), ended early by the recording."""
    with suppress(_Enough):
        decoder(**inputs, use_cache=False)
