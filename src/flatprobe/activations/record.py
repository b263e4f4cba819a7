"""Recording the outputs of decoder blocks in one forward pass that ends after the last wanted block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from flatprobe.errors import UserError


class _Enough(Exception):
    """Raised inside the forward pass once the last wanted block has run."""


def check_decoder_only(model: Any) -> None:
    """Refuse models whose hidden states would not be those of one stack of decoder blocks over text.

    Raises:
        UserError: an encoder-decoder model, or one with parts for other inputs than text.
    """
    config, name = model.config, type(model).__name__
    remedy = "flatprobe reads decoder-only language models"
    if getattr(config, "is_encoder_decoder", False):
        raise UserError.one("record.TODO", name, "is an encoder-decoder model", remedy)
    parts = sorted(part.removesuffix("_config") for part in getattr(config, "sub_configs", {}))
    if parts:
        raise UserError.one(
            "record.TODO", name, f"is a multimodal model (its parts: {', '.join(parts)})", remedy
        )


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The decoder's blocks, found by structure: the one outermost module list as long as the configuration says.

    Lists inside another that fits are parts of its blocks (experts, say, of which there may be as many as blocks).

    Raises:
        UserError: none or several module lists fit.
    """
    depth = model.config.get_text_config().num_hidden_layers
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():  # outer modules come before those inside them
        fits = isinstance(module, nn.ModuleList) and len(module) == depth
        if fits and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    if len(found) != 1:
        raise UserError.one(
            "record.TODO",
            type(model).__name__,
            f"{len(found)} module lists of length {depth}: cannot tell which one holds the decoder blocks",
            "flatprobe reads decoder-only models whose blocks are one torch.nn.ModuleList",
        )
    return next(iter(found.values()))


class Recording:
    """What was kept of the block outputs caught so far, by layer; outputs are [B, T, D], before the final norm."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}


@contextmanager
def record(
    model: Any,
    layers: Sequence[int],
    *,
    keep: Callable[[Tensor], Tensor] | None = None,
    stop_early: bool = True,
) -> Iterator[Recording]:
    """Record the outputs of 0-based decoder blocks during forward passes inside the context.

    `keep` turns an output [B, T, D] into what is kept of it, at once, so that one block's states are alive at a
    time; without it the outputs are kept whole. With `stop_early`, a forward pass must be wrapped by
    :func:`run_recorded`, which swallows the early end; blocks above the last wanted one and the language-model head
    never run.

    Raises:
        UserError: a layer that the model has not, or a block whose output is no [B, T, D].
    """
    blocks = decoder_blocks(model)
    bad = [layer for layer in layers if not 0 <= layer < len(blocks)]
    if bad:
        raise UserError.one(
            "record.TODO",
            "geometry.layers",
            f"{bad[0]}: the model has {len(blocks)} decoder blocks (0-{len(blocks) - 1})",
        )
    recording, last, handles = Recording(), max(layers), []

    def catch(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if not isinstance(states, Tensor) or states.ndim != 3:
                raise UserError.one(
                    "record.TODO",
                    type(model).__name__,
                    f"block {layer} gives no states [rows, tokens, hidden]",
                )
            recording.states[layer] = states if keep is None else keep(states)
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
