"""Opening the engine that the machine file names; none of it enters a key, all of it is recorded."""

from __future__ import annotations

from collections.abc import Iterator
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


@contextmanager
def opened(
    folder: Path, precision: Precision, local: Local, adapter: Path | None = None
) -> Iterator[tuple[Engine, Conversations]]:
    """An engine on a checkpoint artifact, and what renders its prompts; no adapter is on.

    What takes long to load stays loaded for the next stage on the same checkpoint; adapters are taken off.

    Args:
        adapter: the one that will be used, so that an engine that starts for the checkpoint has room for it.

    Raises:
        UserError: the machine file lacks something, or the engine cannot serve the adapter.
    """
    engine, conversations, kept = _open(folder, precision, local, adapter)
    try:
        yield engine, conversations
    finally:
        engine.use(None)
        if not kept:
            engine.close()


def _open(
    folder: Path, precision: Precision, local: Local, adapter: Path | None
) -> tuple[Engine, Conversations, bool]:
    """The engine, its conversations, and whether it outlives the stage."""
    if local.engine == "transformers":
        from flatprobe.generation.transformers_engine.engine import TransformersEngine

        loaded = held_checkpoint(folder, precision, pick_device(local.device))
        return TransformersEngine(loaded, local.sampling_rows), loaded.conversations, False
    path = checkpoint_path(folder)
    conversations = Conversations(load_tokenizer(path), path.name)
    if local.engine == "scripted":
        from flatprobe.generation.scripted_engine import ScriptedEngine

        return ScriptedEngine(conversations, local.scripted), conversations, False
    ends = end_tokens(conversations, eos_of_files(path))
    if local.engine == "openai":
        from flatprobe.generation.openai_engine.engine import OpenaiEngine

        if local.openai is None:
            raise UserError.one(
                "open_engine.TODO", "machine: openai", "missing", "give `base_url` and `model`"
            )
        return OpenaiEngine(path, conversations, ends, local.openai), conversations, False
    engine, kept = _vllm(folder, path, conversations, ends, precision, local)
    if adapter is not None:
        engine.make_room(adapter)
    return engine, conversations, kept


def _vllm(
    folder: Path,
    path: Path,
    conversations: Conversations,
    ends: frozenset[int],
    precision: Precision,
    local: Local,
) -> tuple[VllmEngine, bool]:
    """The engine, and whether it outlives the stage."""
    from flatprobe.generation.vllm_engine.engine import VllmEngine

    def make() -> VllmEngine:
        return VllmEngine(path, conversations, ends, precision, local.vllm)

    try:
        key = ("vllm", read_manifest(folder).content, precision, local.vllm)
    except Damaged:  # no artifact of a run, so nothing says that its files stay as they are
        return make(), False
    return hold("engine", key, make, close=VllmEngine.close), True
