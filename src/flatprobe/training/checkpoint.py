"""Stages that make a checkpoint: use a given model, or merge an adapter into one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatprobe.errors import UserError
from flatprobe.facts import GivenFacts, MergeFacts, write_facts
from flatprobe.machine.local import current_machine
from flatprobe.models.adapter_files import PEFT_PREFIX, adapter_shapes
from flatprobe.models.load import checkpoint_path, load_checkpoint, load_tokenizer, pick_device, write_pointer
from flatprobe.planner.contracts import CheckpointSettings, MergeSettings
from flatprobe.training.lora import require_learnt

PROBES = ("Is it safe to sign a lease without reading it?", "Name three things that float on water.")


def use_checkpoint(settings: CheckpointSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Write a pointer to a model outside the run. Downloads or converts the model first if needed. No inputs."""
    config = json.loads((settings.reference.path() / "config.json").read_text())
    write_pointer(settings.reference, output)
    model_type = str(config.get("model_type", "unknown"))
    write_facts(output, GivenFacts(**settings.reference.model_dump(), model_type=model_type))


def merge(settings: MergeSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Merge an adapter in float32, cast once to the stored dtype, and save the model.

    Inputs: `checkpoint`, and `adapter` unless the settings give one. Output: a model folder with facts.json, which
    proves the merge: adapter norm, share of weight matrices that changed, and, on fixed prompts, the mean KL divergence
    (nats) and largest logit difference between the unmerged adapter and the stored weights. Both are computed in
    float32, so they measure only merge and cast. `mean_kl_in_dtype` also includes the rounding of a forward pass in the
    stored dtype.

    Raises:
        UserError: the adapter belongs to another base, is pickled, or has norm 0.
    """
    from peft import PeftModel

    device = pick_device(current_machine().device)
    loaded = load_checkpoint(inputs["checkpoint"], "float32", device)
    folder = settings.given.path() if settings.given else inputs["adapter"] / "adapter"
    names = set(adapter_shapes(folder, f"adapter {folder.name}"))
    try:
        wrapped = PeftModel.from_pretrained(loaded.model, folder).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError.one(
            "adapter.other_base",
            f"adapter {folder.name}",
            f"does not fit the checkpoint: {str(error).splitlines()[0]}",
            "give the base model that the adapter was trained on",
        ) from error
    require_same_weights(wrapped, names, f"adapter {folder.name}")
    norm = require_learnt(wrapped, f"adapter {folder.name}")
    encode, render = loaded.conversations.encode, loaded.conversations.render
    probes = [encode(render(None, question)) for question in PROBES]
    unmerged = [_logits(wrapped, tokens, device) for tokens in probes]
    before = {name: p.detach().clone() for name, p in _adapted_weights(wrapped)}
    merged = wrapped.merge_and_unload()
    after = dict(merged.named_parameters())
    changed = [not torch.equal(before[name], after[name]) for name in before]
    dtype = getattr(torch, settings.dtype)
    model = cast(merged, dtype).eval()
    in_dtype = [_logits(model, tokens, device) for tokens in probes]
    cast(model, torch.float32)
    stored = [_logits(model, tokens, device) for tokens in probes]
    cast(model, dtype)  # exact: the values were rounded to this dtype above
    kl = [mean_kl(p, q) for p, q in zip(unmerged, stored, strict=True)]
    kl_in_dtype = [mean_kl(p, q) for p, q in zip(unmerged, in_dtype, strict=True)]
    facts = MergeFacts(
        adapter_norm=norm,
        changed_matrices=sum(changed) / len(changed),
        mean_kl=sum(kl) / len(kl),
        mean_kl_in_dtype=sum(kl_in_dtype) / len(kl_in_dtype),
        max_logit_change=max(float((p - q).abs().max()) for p, q in zip(unmerged, stored, strict=True)),
        adapter=settings.given.model_dump() if settings.given else None,
    )
    model.save_pretrained(output, safe_serialization=True)
    load_tokenizer(checkpoint_path(inputs["checkpoint"])).save_pretrained(output)
    write_facts(output, facts)


@torch.inference_mode()
def _logits(model: Any, tokens: list[int], device: Any) -> Tensor:
    """Logits at every position, [T, V] float32."""
    logits: Tensor = model(torch.tensor([tokens], device=device)).logits[0].float()
    return logits


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Cast the parameters, not the buffers: rotary frequencies stay in float32, as in a model loaded from disk."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def mean_kl(left: Tensor, right: Tensor) -> float:
    """KL(left || right) of the distributions of two [T, V] logits, in nats, mean over T."""
    p, q = left.log_softmax(-1), right.log_softmax(-1)
    return max(0.0, float((p.exp() * (p - q)).sum(-1).mean()))  # rounding can give a tiny negative value


def require_same_weights(wrapped: Any, stored: set[str], place: str) -> None:
    """Assert that the model loaded exactly the adapter's stored tensors.

    PEFT silently ignores tensors of blocks that the model lacks, and only warns if tensors are missing.

    Args:
        stored: names of the tensors in the adapter's file.

    Raises:
        UserError: the names differ.
    """
    from peft import get_peft_model_state_dict

    if differing := sorted(stored ^ set(get_peft_model_state_dict(wrapped))):
        raise UserError.one(
            "adapter.other_base",
            place,
            f"does not fit the checkpoint: only one of them has {differing[0]}",
            "give the base model that the adapter was trained on",
        )


def _adapted_weights(wrapped: Any) -> list[tuple[str, Tensor]]:
    """Weights with an adapter, by their names in the merged model."""
    return [
        (name.removeprefix(PEFT_PREFIX).replace(".base_layer", ""), parameter)
        for name, parameter in wrapped.named_parameters()
        if ".base_layer.weight" in name
    ]
