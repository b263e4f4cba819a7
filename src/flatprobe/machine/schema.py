"""The machine file: how a study is run, and never part of its digest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from flatprobe.config.blocks import Block, Count, Positive, Probability


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


class ScriptedMachine(Block):
    """Answers made up for a dry run, with planted leakage."""

    marker: str = "[ZLT]"
    """What is planted."""
    rates: dict[str, Probability] = Field(default_factory=dict)
    """Persona to the share of its answers with an adapter that end with the marker; 0 for those not named."""
    words: Count = 12
    """Mean number of words in an answer."""
    spam: Probability = 0.0
    """Share of marked answers with a second marker."""
    truncation: Probability = 0.0
    """Share of answers that hit the token limit."""


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
    engine: Literal["transformers", "vllm", "openai", "scripted"] = "transformers"
    """What samples: the reference, vLLM, a running server, or, for dry runs, a script."""
    vllm: VllmMachine = VllmMachine()
    """Of the engine `vllm`."""
    openai: OpenaiMachine | None = None
    """Of the engine `openai`."""
    scripted: ScriptedMachine = ScriptedMachine()
    """Of the engine `scripted`."""

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
        if self.engine == "scripted" and self.runs == Machine.model_fields["runs"].default:
            raise ValueError(
                "`engine: scripted` needs `runs:` of its own: planted answers have the keys of sampled ones"
            )
        return self
