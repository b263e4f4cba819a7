"""Loading checkpoints: a stage's folder in, a causal language model and its conversations out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.reference import Reference
from flatprobe.pipeline.manifest import Damaged, read_manifest
from flatprobe.worker_cache import hold, release

POINTER = "checkpoint.json"


@dataclass(frozen=True)
class Loaded:
    model: Any  # transformers.PreTrainedModel in eval mode
    conversations: Conversations
    device: Any  # torch.device


def write_pointer(reference: Reference, output: Path) -> None:
    """Record that a checkpoint lies outside the run."""
    (output / POINTER).write_text(reference.model_dump_json(indent=1))


def checkpoint_path(folder: Path) -> Path:
    """The model files behind a checkpoint artifact: its own, or those that it points to."""
    pointer = folder / POINTER
    return Reference.model_validate_json(pointer.read_text()).path() if pointer.is_file() else folder


def pick_device(wanted: Literal["auto", "cpu", "cuda", "mps"]) -> Any:
    """The torch device; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the wanted device is not there.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[wanted]:
        raise UserError.one(
            "load.TODO", "machine: device", f"torch sees no {wanted} device", "use device: auto or cpu"
        )
    return torch.device(wanted)


def load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def load_checkpoint(folder: Path, precision: Literal["float32", "bfloat16"], device: Any) -> Loaded:
    """Load a checkpoint artifact as the caller's own, to be trained on or changed.

    Whatever earlier stages left for reading is given up first: who changes a model needs the memory.

    Raises:
        UserError: weights are missing from its files.
    """
    release()
    return _load(folder, precision, device)


def held_checkpoint(folder: Path, precision: Literal["float32", "bfloat16"], device: Any) -> Loaded:
    """A checkpoint artifact for reading: the one that the last stage of this process read, where it is the same.

    Who puts an adapter on it takes it off again.

    Raises:
        UserError: weights are missing from its files.
    """
    try:
        content = read_manifest(folder).content
    except Damaged:  # no artifact of a run, so nothing says that its files stay as they are
        return _laid_out(load_checkpoint(folder, precision, device))
    key = (content, precision, str(device))
    return hold("checkpoint", key, lambda: _laid_out(_load(folder, precision, device)))


def _laid_out(loaded: Loaded) -> Loaded:
    """With its linear weights in memory as a CPU's matrix product of some hundred rows reads them fastest.

    Shapes and values stay; at 64 to 128 rows it saves between four and ten per cent of a pass. The head stays as it is:
    its weight may be the embedding's, whose rows are looked up.
    """
    from torch.nn import Linear

    if loaded.device.type == "cpu":
        head = loaded.model.get_output_embeddings()
        for module in loaded.model.modules():
            if isinstance(module, Linear) and module is not head:
                module.weight.data = module.weight.data.t().contiguous().t()
    return loaded


def _load(folder: Path, precision: Literal["float32", "bfloat16"], device: Any) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM

    path = checkpoint_path(folder)
    both: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, precision),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    model, report = both
    if missing := sorted(report["missing_keys"]):  # the library would go on with random ones
        raise UserError.one(
            "load.TODO",
            str(path),
            f"{len(missing)} weights are missing, {missing[0]} among them",
            "complete the checkpoint",
        )
    model.eval().requires_grad_(False)
    return Loaded(model.to(device), Conversations(load_tokenizer(path), path.name), device)
