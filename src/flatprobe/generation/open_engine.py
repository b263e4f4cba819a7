"""Open the engine that the machine file names. Its choice enters no key; facts.json records it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flatprobe.errors import UserError
from flatprobe.generation.engine import Engine
from flatprobe.generation.stopping import end_tokens, eos_of_files
from flatprobe.machine.local import Local
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, held_checkpoint, load_tokenizer, pick_device
from flatprobe.pipeline.manifest import Damaged, read_manifest
from flatprobe.study.recipe_schema import Precision
from flatprobe.worker_cache import hold

if TYPE_CHECKING:
    from flatprobe.generation.vllm_engine.engine import VllmEngine

MakeEngine = Callable[[Path, Conversations, frozenset[int], Precision, Local], Engine]
"""An engine of the user's own, `engine: package.module:function` in the machine file.

Called with the checkpoint's folder, what renders and tokenises its prompts, the tokens that end an answer, the
study's precision, and the machine file's values.
"""


@contextmanager
def open_engine(
    folder: Path, precision: Precision, local: Local, adapter: Path | None = None
) -> Iterator[tuple[Engine, Conversations]]:
    """The engine for a checkpoint artifact without an adapter, and what renders its prompts.

    A loaded model or running process is kept for the next stage on the same checkpoint; its adapter is removed.

    Args:
        adapter: the one that will be used, so that an engine started for the checkpoint has room for it.

    Raises:
        UserError: the machine file lacks something, or the engine cannot serve the adapter.
    """
    engine, conversations, is_kept = _open(folder, precision, local, adapter)
    try:
        yield engine, conversations
    finally:
        engine.use(None)
        if not is_kept:
            engine.close()


def _open(folder: Path, precision: Precision, local: Local, adapter: Path | None) -> tuple[Engine, Conversations, bool]:
    """The engine, its conversations, and whether it outlives the stage."""
    if local.engine == "transformers":
        from flatprobe.generation.transformers_engine.engine import TransformersEngine

        loaded = held_checkpoint(folder, precision, pick_device(local.device))
        return TransformersEngine(loaded, local.sampling_rows), loaded.conversations, False
    path = checkpoint_path(folder)
    conversations = Conversations(load_tokenizer(path), path.name)
    ends = end_tokens(conversations, eos_of_files(path))
    if local.engine == "openai":
        from flatprobe.generation.openai_engine.engine import OpenaiEngine

        if local.openai is None:
            raise UserError.one("machine.no_server", "machine: openai", "missing", "give `base_url` and `model`")
        return OpenaiEngine(path, conversations, ends, local.openai), conversations, False
    if local.engine != "vllm":
        make = _imported(local.engine)
        return make(path, conversations, ends, precision, local), conversations, False
    engine, is_kept = _vllm(folder, path, conversations, ends, precision, local)
    if adapter is not None:
        engine.make_room(adapter)
    return engine, conversations, is_kept


def _imported(import_string: str) -> MakeEngine:
    """The function that an import string names.

    Raises:
        UserError: there is none.
    """
    module, _, name = import_string.partition(":")
    try:
        make: MakeEngine = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError.one(
            "machine.engine",
            "machine: engine",
            f"cannot import {import_string}: {error}",
            "install the package that holds it, or use another engine",
        ) from error
    return make


def _vllm(
    folder: Path, path: Path, conversations: Conversations, ends: frozenset[int], precision: Precision, local: Local
) -> tuple[VllmEngine, bool]:
    """The engine, and whether it outlives the stage."""
    from flatprobe.generation.vllm_engine.engine import VllmEngine

    def make() -> VllmEngine:
        return VllmEngine(path, conversations, ends, precision, local.vllm)

    try:
        key = ("vllm", read_manifest(folder).content, precision, local.vllm)
    except Damaged:  # no artifact of a run: its files may change
        return make(), False
    return hold("engine", key, make, close=VllmEngine.close), True
