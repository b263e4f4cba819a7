"""Opening the engine that the machine file names; none of it enters a key, all of it is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flatprobe.data.conversation import Conversations
from flatprobe.errors import UserError
from flatprobe.generation.engine import Engine
from flatprobe.generation.stopping import ends_of_files
from flatprobe.held import hold
from flatprobe.machine import Local
from flatprobe.models.load import checkpoint_path, held_checkpoint, load_tokenizer, pick_device
from flatprobe.pipeline.manifest import Damaged, read_manifest
from flatprobe.study.schema import Precision


@contextmanager
def opened(folder: Path, precision: Precision, local: Local) -> Iterator[tuple[Engine, Conversations]]:
    """An engine on a checkpoint artifact, with no adapter, and what renders its prompts.

    What takes long to load stays loaded for the next stage on the same checkpoint; adapters are taken off.
    """
    engine, conversations, kept = _open(folder, precision, local)
    try:
        yield engine, conversations
    finally:
        engine.use(None)
        if not kept:
            engine.close()


def _open(folder: Path, precision: Precision, local: Local) -> tuple[Engine, Conversations, bool]:
    """The engine, its conversations, and whether it outlives the stage."""
    if local.engine == "transformers":
        from flatprobe.generation.transformers_engine import TransformersEngine

        loaded = held_checkpoint(folder, precision, pick_device(local.device))
        return TransformersEngine(loaded, local.sampling_rows), loaded.conversations, False
    path = checkpoint_path(folder)
    conversations = Conversations(load_tokenizer(path), path.name)
    if local.engine == "scripted":
        from flatprobe.generation.scripted_engine import ScriptedEngine

        return ScriptedEngine(conversations, local.scripted), conversations, False
    ends = ends_of_files(path, conversations)
    if local.engine == "openai":
        from flatprobe.generation.openai_engine import OpenaiEngine

        if local.openai is None:
            raise UserError.one("machine: openai", "missing", "give `base_url` and `model`")
        return OpenaiEngine(path, conversations, ends, local.openai), conversations, False
    from flatprobe.generation.vllm_engine import VllmEngine

    try:
        key = ("vllm", read_manifest(folder).content, precision, local.vllm)
    except Damaged:  # no artifact of a run, so nothing says that its files stay as they are
        return VllmEngine(path, conversations, ends, precision, local.vllm), conversations, False
    engine = hold(
        "engine",
        key,
        lambda: VllmEngine(path, conversations, ends, precision, local.vllm),
        close=VllmEngine.close,
    )
    return engine, conversations, True
