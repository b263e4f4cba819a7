"""Record the outputs of decoder blocks in a forward pass that stops after the last requested block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from flatprobe.errors import UserError


class _Stop(Exception):
    """Raised in the forward pass when the last requested block has run."""


def check_decoder_only(model: Any) -> None:
    """Refuse models that are not decoder-only text models.

    Raises:
        UserError: an encoder-decoder model, or a model with parts for other inputs than text.
    """
    config, name = model.config, type(model).__name__
    remedy = "flatprobe reads decoder-only language models"
    if getattr(config, "is_encoder_decoder", False):
        raise UserError.one("model.architecture", name, "is an encoder-decoder model", remedy)
    parts = sorted(part.removesuffix("_config") for part in getattr(config, "sub_configs", {}))
    if parts:
        raise UserError.one(
            "model.architecture", name, f"is a multimodal model (its parts: {', '.join(parts)})", remedy
        )


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The decoder's blocks: the only outermost module list whose length is the configured number of layers.

    A list inside another one belongs to a block; for example, there may be as many experts as blocks.

    Raises:
        UserError: no or several module lists have that length.
    """
    depth = model.config.get_text_config().num_hidden_layers
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():  # outer modules come before inner ones
        fits = isinstance(module, nn.ModuleList) and len(module) == depth
        if fits and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = module
    if len(lists) != 1:
        raise UserError.one(
            "model.decoder_blocks",
            type(model).__name__,
            f"has {len(lists)} module lists of length {depth}, so the decoder blocks are ambiguous",
            "flatprobe reads decoder-only models whose blocks are one torch.nn.ModuleList",
        )
    return next(iter(lists.values()))


class Recording:
    """Recorded states by layer: what `keep` returned for the block output [B, T, D], before the final norm."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}


@contextmanager
def record(
    model: Any, layers: Sequence[int], *, keep: Callable[[Tensor], Tensor] | None = None, stop_early: bool = True
) -> Iterator[Recording]:
    """Record the outputs of decoder blocks during forward passes inside the context.

    Args:
        layers: 0-based blocks.
        keep: reduces a block's output [B, T, D] at once, so that only one output is in memory. Default: keep it whole.
        stop_early: stop after the last requested block. The forward pass must then be `run_recorded`.

    Raises:
        UserError: the model has no such layer, or a block's output is not [B, T, D].
    """
    blocks = decoder_blocks(model)
    bad = [layer for layer in layers if not 0 <= layer < len(blocks)]
    if bad:
        raise UserError.one(
            "geometry.layers",
            "geometry.layers",
            f"{bad[0]}: the model has {len(blocks)} decoder blocks (0-{len(blocks) - 1})",
        )
    recording, last, handles = Recording(), max(layers), []

    def catch(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if not isinstance(states, Tensor) or states.ndim != 3:
                raise UserError.one(
                    "model.block_output",
                    type(model).__name__,
                    f"the output of block {layer} does not have the shape [rows, tokens, hidden size]",
                )
            recording.states[layer] = states if keep is None else keep(states)
            if stop_early and layer == last:
                raise _Stop

        return hook

    try:
        for layer in set(layers):
            handles.append(blocks[layer].register_forward_hook(catch(layer)))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def run_recorded(decoder: Any, **inputs: Any) -> None:
    """Run one forward pass of the decoder (without head), which the recording may stop early."""
    with suppress(_Stop):
        decoder(**inputs, use_cache=False)
