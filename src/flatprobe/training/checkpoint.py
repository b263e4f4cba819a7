"""Stages that make a checkpoint: use a given model, or merge an adapter in float32 and cast once."""

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
from flatprobe.models.load import (
    checkpoint_path,
    load_checkpoint,
    load_tokenizer,
    pick_device,
    write_pointer,
)
from flatprobe.planner.contracts import CheckpointSettings, MergeSettings
from flatprobe.training.lora import require_learnt

PROBES = ("Is it safe to sign a lease without reading it?", "Name three things that float on water.")


def use_checkpoint(settings: CheckpointSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Point to a model outside the run; fetch or convert it first if needed. No inputs."""
    config = json.loads((settings.reference.path() / "config.json").read_text())
    write_pointer(settings.reference, output)
    model_type = str(config.get("model_type", "unknown"))
    write_facts(output, GivenFacts(**settings.reference.model_dump(), model_type=model_type))


def merge(settings: MergeSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Merge and store. Inputs: `checkpoint`, and `adapter` unless one is given. Output: a model folder.

    facts.json holds the proof: adapter norm, share of weight matrices that changed, and mean KL (nats) and largest
    logit difference of the stored weights against the unmerged adapter on fixed prompts, both computed in float32, so
    that they show what merge and cast did. `mean_kl_in_dtype` is the same of the stored weights in their own
    arithmetic, whose rounding adds to it.

    Raises:
        UserError: an adapter of another base, a pickled one, or one whose norm is 0.
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
            "checkpoint.TODO", f"adapter {folder.name}", f"does not fit the checkpoint: {str(error).splitlines()[0]}",
            "give the base model that the adapter was trained on",
        ) from error  # fmt: skip
    require_same_weights(wrapped, names, f"adapter {folder.name}")
    norm = require_learnt(wrapped, f"adapter {folder.name}")
    probes = [
        loaded.conversations.encode(loaded.conversations.render(None, question)) for question in PROBES
    ]  # fmt: skip
    unmerged = [_logits(wrapped, tokens, device) for tokens in probes]
    before = {name: p.detach().clone() for name, p in _adapted_weights(wrapped)}
    merged = wrapped.merge_and_unload()
    after = dict(merged.named_parameters())
    changed = [not torch.equal(before[name], after[name]) for name in before]
    dtype = getattr(torch, settings.dtype)
    model = cast(merged, dtype).eval()
    rough = [_logits(model, tokens, device) for tokens in probes]
    cast(model, torch.float32)
    stored = [_logits(model, tokens, device) for tokens in probes]
    cast(model, dtype)  # loses nothing: these are the values that were cast
    kl, rough_kl = ([mean_kl(p, q) for p, q in zip(unmerged, each, strict=True)] for each in (stored, rough))
    facts = MergeFacts(
        adapter_norm=norm,
        changed_matrices=sum(changed) / len(changed),
        mean_kl=sum(kl) / len(kl),
        mean_kl_in_dtype=sum(rough_kl) / len(rough_kl),
        max_logit_change=max(float((p - q).abs().max()) for p, q in zip(unmerged, stored, strict=True)),
        adapter=settings.given.model_dump() if settings.given else None,
    )
    model.save_pretrained(output, safe_serialization=True)
    load_tokenizer(checkpoint_path(inputs["checkpoint"])).save_pretrained(output)
    write_facts(output, facts)


@torch.inference_mode()
def _logits(model: Any, tokens: list[int], device: Any) -> Tensor:
    """[T, V] float32 logits of every next token."""
    logits: Tensor = model(torch.tensor([tokens], device=device)).logits[0].float()
    return logits


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Cast the weights alone: buffers such as rotary frequencies stay in float32, as in the model that is loaded from
    what is stored."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def mean_kl(left: Tensor, right: Tensor) -> float:
    """KL(left || right) of the distributions behind two [T, V] logits, in nats, mean over T."""
    p, q = left.log_softmax(-1), right.log_softmax(-1)
    return max(0.0, float((p.exp() * (p - q)).sum(-1).mean()))  # rounding may leave a tiny negative


def require_same_weights(wrapped: Any, stored: set[str], place: str) -> None:
    """Assert that an adapter's stored weights are exactly those that the model took.

    An adapter of a deeper model loads without a word, its upper layers left out; one of a shallower model warns.

    Raises:
        UserError: a weight is on one side only.
    """
    from peft import get_peft_model_state_dict

    if differing := sorted(stored ^ set(get_peft_model_state_dict(wrapped))):
        raise UserError.one(
            "checkpoint.TODO", place, f"does not fit the checkpoint: {differing[0]} is on one side only",
            "give the base model that the adapter was trained on",
        )  # fmt: skip


def _adapted_weights(wrapped: Any) -> list[tuple[str, Tensor]]:
    """Weights under an adapter, by the name they have in the merged model."""
    return [
        (name.removeprefix(PEFT_PREFIX).replace(".base_layer", ""), parameter)
        for name, parameter in wrapped.named_parameters()
        if ".base_layer.weight" in name
    ]
