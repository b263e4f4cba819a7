"""Attach a LoRA adapter to a checkpoint, and check that training changed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from flatprobe.errors import UserError
from flatprobe.study.recipe_schema import Lora


def attach(model: Any, lora: Lora, seed: int) -> Any:
    """Wrap a frozen model with a fresh LoRA adapter in float32; returns the `peft` model.

    The update is scaled by alpha/r, or by alpha/sqrt(r) with rank stabilisation (Kalajdzievski 2023,
    arXiv:2312.03732).

    Raises:
        UserError: a name is no linear module of the model, or is the output head (the losses need it unchanged), or the
            model has no such first layer.
    """
    from peft import LoraConfig, get_peft_model

    depth = model.config.get_text_config().num_hidden_layers
    if lora.first_layer >= depth:
        raise UserError.one(
            "lora.layer_range", "lora.first_layer", f"{lora.first_layer}: the model has {depth} decoder blocks"
        )
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    names = {name.rpartition(".")[2] for name, module in linear.items()}
    heads = {name for name, module in linear.items() if module is model.get_output_embeddings()}
    if adapted := sorted(heads & set(lora.modules)):
        raise UserError.one(
            "lora.output_head",
            "lora.modules",
            f"{adapted[0]} is the output head",
            "adapt modules inside the decoder blocks",
        )
    missing = [module for module in lora.modules if module not in names]
    if missing:
        raise UserError.one(
            "lora.unknown_module", "lora.modules", f"the model has no linear module called {', '.join(missing)}"
        )
    torch.manual_seed(seed)  # PEFT draws the initial A from the global generator
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated int, but floats work
        lora_dropout=lora.dropout,
        target_modules=list(lora.modules),
        use_rslora=lora.rank_stabilised,
        layers_to_transform=list(range(lora.first_layer, depth)) if lora.first_layer else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Inside the context the module is in evaluation mode, without dropout."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@contextmanager
def without_adapter(wrapped: Any) -> Iterator[None]:
    """Inside the context the adapter is switched off, and the model is in evaluation mode."""
    with evaluating(wrapped), wrapped.disable_adapter():
        yield


def adapter_norm(model: Any) -> float:
    """Frobenius norm of all B matrices. It is 0 if and only if the adapter changes nothing."""
    squares = [
        parameter.detach().float().square().sum() for name, parameter in model.named_parameters() if "lora_B" in name
    ]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def require_learnt(model: Any, stage: str) -> float:
    """The adapter's norm.

    Raises:
        UserError: it is 0 or not finite.
    """
    norm = adapter_norm(model)
    if not 0.0 < norm < float("inf"):
        raise UserError.one(
            "adapter.no_update",
            stage,
            f"the adapter's norm is {norm} after training",
            "check the learning rate and the data",
        )
    return norm
