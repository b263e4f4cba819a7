"""The machine file: how a study is run. It never enters the study's digest."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from flatprobe.config.blocks import Block, Count, Positive


class VllmMachine(Block):
    """How vLLM runs on this machine."""

    python: str | None = None
    """Python interpreter that has vLLM, possibly of another environment; null uses flatprobe's interpreter."""
    gpu_memory: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    """Share of the device's memory for the engine. The rest is for the reference model of the parity check."""
    max_model_len: Count | None = None
    """Smallest context length of the engine, in tokens of prompt and answer; null uses what a stage needs."""
    tensor_parallel_size: Count = 1
    """Devices that share the model."""
    batch_invariant: bool = False
    """Use kernels whose results do not depend on the rest of the batch. Slower, and not available on every device."""
    enforce_eager: bool = False
    """Neither compile nor capture graphs: faster start, slower decoding."""


class OpenaiMachine(Block):
    """A running server with OpenAI's protocol."""

    base_url: str
    """Address of the server, with `/v1`."""
    model: str
    """The checkpoint's name on the server."""
    concurrency: Count = 32
    """Largest number of simultaneous requests."""
    timeout: Positive = 600.0
    """Time limit of one completion in seconds, including the wait in the server's queue."""
    prompt: Literal["tokens", "text"] = "tokens"
    """How prompts are sent: as token ids, or as rendered text for a server that accepts only text."""
    api_key_env: str | None = None
    """Environment variable with the API key; null sends no key."""


Engine = Literal["transformers", "vllm", "openai"]
_IMPORT_STRING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def _known_engine(engine: str) -> str:
    if engine not in get_args(Engine) and not _IMPORT_STRING.fullmatch(engine):
        choices = ", ".join(f"`{name}`" for name in get_args(Engine))
        raise PydanticCustomError(
            "machine.unknown_engine",
            "`{engine}` is no engine: use {choices}, or `package.module:function` for your own",
            {"engine": engine, "choices": choices},
        )
    return engine


EngineName = Annotated[str, AfterValidator(_known_engine)]
"""One of flatprobe's engines, or the import string of a function that makes one."""


class Machine(Block):
    """How to run a study. Never part of its digest."""

    runs: str = "runs"
    """Folder with one run folder per study."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per worker; null divides all cores among the workers."""
    workers: Count = 1
    """Stages computed at a time. Each worker is a process with its own model."""
    gpus: Count = 1
    """GPUs divided among the workers: worker n sees GPU n modulo this number."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where models run."""
    sampling_rows: Count = 512
    """Rows decoded together in sampling."""
    forward_rows: Count = 32
    """Rows in a forward pass without gradients."""
    training_rows: Count = 16
    """Examples in a forward pass with gradients. Gradients of a batch accumulate exactly, whatever this number."""
    checkpoint_steps: Count | None = 50
    """Training steps between two saved states, from which an interrupted training resumes; null saves none."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers that log every training under its stage's name."""
    engine: EngineName = "transformers"
    """The sampling engine: `transformers` (the reference), `vllm`, `openai` (a running server), or
    `package.module:function`, which makes your own engine."""
    vllm: VllmMachine = VllmMachine()
    """Settings of the engine `vllm`."""
    openai: OpenaiMachine | None = None
    """Settings of the engine `openai`."""

    @model_validator(mode="after")
    def _engine_has_its_settings(self) -> Machine:
        if self.engine == "vllm" and self.workers > self.gpus:
            raise PydanticCustomError(
                "machine.workers_per_gpu",
                "`engine: vllm` needs a whole GPU per worker: `workers` must not exceed `gpus`",
            )
        if self.engine == "vllm" and self.gpus > 1 and self.vllm.tensor_parallel_size > 1:
            raise PydanticCustomError(
                "machine.tensor_parallel",
                "with several `gpus` each worker sees one GPU: `vllm.tensor_parallel_size` must be 1",
            )
        if self.engine == "openai" and self.openai is None:
            raise PydanticCustomError(
                "machine.no_server", "`engine: openai` needs `openai:` with `base_url` and `model`"
            )
        return self
