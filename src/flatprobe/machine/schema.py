"""The machine file: how a study is run, and never part of its digest."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from flatprobe.config.blocks import Block, Count, Positive


class VllmMachine(Block):
    """How vLLM runs here."""

    python: str | None = None
    """Interpreter that has vLLM, which may live in an environment of its own; null is flatprobe's own."""
    gpu_memory: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    """Share of the device's memory that the engine takes; the rest is for the reference model of the parity check."""
    max_model_len: Count | None = None
    """Tokens of prompt and answer that the engine is started for at least; null takes what a stage needs."""
    tensor_parallel_size: Count = 1
    """Devices that share the model."""
    batch_invariant: bool = False
    """Ask for kernels whose results do not depend on what else is in the batch; slower, and not on every device."""
    enforce_eager: bool = False
    """Neither compile nor capture graphs: a faster start, slower decoding."""


class OpenaiMachine(Block):
    """A server that is running already and speaks OpenAI's protocol."""

    base_url: str
    """Its address, with `/v1`."""
    model: str
    """The name under which it serves the checkpoint."""
    concurrency: Count = 32
    """Requests under way at a time."""
    timeout: Positive = 600.0
    """Seconds that one completion may take, waiting in the server's queue included."""
    prompt: Literal["tokens", "text"] = "tokens"
    """How prompts are sent: token ids, or the rendered text for a server that takes only that."""
    api_key_env: str | None = None
    """Environment variable that holds the key; null sends none."""


Engine = Literal["transformers", "vllm", "openai"]
_IMPORT_STRING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def _known_engine(engine: str) -> str:
    if engine not in get_args(Engine) and not _IMPORT_STRING.fullmatch(engine):
        choices = ", ".join(f"`{name}`" for name in get_args(Engine))
        raise ValueError(
            f"`{engine}` is no engine: use {choices} or an engine of your own, `package.module:function`"
        )
    return engine


EngineName = Annotated[str, AfterValidator(_known_engine)]
"""One of flatprobe's engines, or the import string of a function that makes one."""


class Machine(Block):
    """How to run a study; never part of its digest."""

    runs: str = "runs"
    """Folder that receives one folder per study."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of a worker; null takes all cores, shared out where there are several workers."""
    workers: Count = 1
    """Stages computed at a time, each in a process of its own with a model of its own."""
    gpus: Count = 1
    """GPUs shared out among the workers: worker n sees one of them, n modulo their number."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where models run."""
    sampling_rows: Count = 512
    """Rows decoded together while sampling."""
    forward_rows: Count = 32
    """Rows in a forward pass without gradients."""
    training_rows: Count = 16
    """Examples in a forward pass with gradients; gradients of a batch accumulate exactly."""
    checkpoint_steps: Count | None = 50
    """Training steps after which the state is saved, so that a killed training goes on from there; null saves none."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers that follow every training, under the names of the stages."""
    engine: EngineName = "transformers"
    """What samples: `transformers` (the reference), `vllm`, `openai` (a running server), or `package.module:function`
    that makes an engine of your own."""
    vllm: VllmMachine = VllmMachine()
    """Of the engine `vllm`."""
    openai: OpenaiMachine | None = None
    """Of the engine `openai`."""

    @model_validator(mode="after")
    def _engine_is_described(self) -> Machine:
        if self.engine == "vllm" and self.workers > self.gpus:
            raise ValueError("`engine: vllm` takes a GPU for itself: `workers` must not be more than `gpus`")
        if self.engine == "vllm" and self.gpus > 1 and self.vllm.tensor_parallel_size > 1:
            raise ValueError(
                "with `gpus` shared out among workers each sees one: `vllm.tensor_parallel_size` must be 1"
            )
        if self.engine == "openai" and self.openai is None:
            raise ValueError("`engine: openai` needs `openai:` with `base_url` and `model`")
        return self
