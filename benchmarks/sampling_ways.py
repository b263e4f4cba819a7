"""The ways of sampling that `sampling.py` compares, and their prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flatprobe.generation.engine import CompletionRequest, Engine, SamplingSettings
from flatprobe.generation.sample import prompts_of
from flatprobe.generation.stopping import end_tokens, eos_of_files
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded, held_checkpoint, load_checkpoint, load_tokenizer
from flatprobe.study import resources
from flatprobe.study.load import load_study
from flatprobe.study.questions import take
from flatprobe.study.recipe_schema import Lora, Precision
from flatprobe.study.schema import QuestionSet
from flatprobe.training.lora import attach

RANK, UPDATE = 32, 1e-3  # of the adapter: the demo's rank, and updates so small that the text stays sensible


@dataclass(frozen=True)
class Load:
    """The prompts to sample, and how."""

    prompts: tuple[Prompt, ...]
    samples: int
    max_new_tokens: int
    forced: bool
    """Every completion has `max_new_tokens` tokens; end tokens are ignored."""

    @property
    def requests(self) -> list[CompletionRequest]:
        return [CompletionRequest(prompt, index) for prompt in self.prompts for index in range(self.samples)]

    @property
    def settings(self) -> SamplingSettings:
        return SamplingSettings(self.max_new_tokens, temperature=1.0, top_p=1.0, seed="benchmark")


def loads(quick: bool) -> dict[str, Load]:
    """The demo's personas with twenty questions and answers of one length, and the demo's own prompts."""
    demo = load_study(resources.path("studies/demo.yaml"))
    leakage = demo.study.leakage
    forced = prompts_of(demo.personas(), take(demo.questions["evaluation"], QuestionSet(count=20)))
    own = prompts_of(demo.personas(), take(demo.questions["evaluation"], demo.study.questions.evaluation))
    every = 10 if quick else 1
    return {
        "forced": Load(tuple(forced[::every]), 4, 16 if quick else 64, forced=True),
        "demo": Load(tuple(own[::every]), leakage.samples, leakage.max_new_tokens, forced=False),
    }


@dataclass(frozen=True)
class Options:
    """Settings of a way."""

    model: Path
    precision: Precision
    device: str
    rows: int
    vllm_python: str | None
    vllm_eager: bool
    folder: Path
    """Scratch folder for an adapter."""


Run = Callable[[Load], int]
"""Samples a load; returns the number of tokens, without end tokens."""


@torch.inference_mode()
def plain(loaded: Loaded, load: Load, batch: int) -> int:
    """`generate`, `batch` rows at a time, sorted by prompt length; the model's own sampling settings are off."""
    from transformers import GenerationConfig

    conversations, model = loaded.conversations, loaded.model
    ends = [] if load.forced else sorted(end_tokens(conversations, model.generation_config.eos_token_id))
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    encoded = sorted((conversations.encode_prompt(prompt) for prompt in load.prompts), key=len)
    step, total = max(1, batch // load.samples), 0
    for start in range(0, len(encoded), step):
        rows = encoded[start : start + step]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=loaded.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.device)
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=load.max_new_tokens,
            num_return_sequences=load.samples,
            eos_token_id=ends or None,
            pad_token_id=conversations.turn_end,
        )
        total += sum(_until(row, ends) for row in out[:, width:].tolist())
    return total


def continuous(loaded: Loaded, load: Load) -> int:
    """The library's `generate_batch`."""
    from transformers import GenerationConfig

    conversations = loaded.conversations
    eos = loaded.model.generation_config.eos_token_id
    ends = [] if load.forced else sorted(end_tokens(conversations, eos))
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=load.max_new_tokens,
        eos_token_id=ends or -1,
        pad_token_id=conversations.turn_end,
    )
    inputs = [conversations.encode_prompt(request.prompt) for request in load.requests]
    outputs = loaded.model.generate_batch(inputs=inputs, generation_config=config)
    if len(outputs) != len(inputs):
        raise RuntimeError(f"{len(inputs) - len(outputs)} requests have no answer")
    return sum(_until(output.generated_tokens, ends) for output in outputs.values())


def engine(sampler: Engine, load: Load) -> int:
    """One of flatprobe's engines."""
    return sum(len(completion.tokens) for _, completion in sampler.stream(load.requests, load.settings))


def _until(tokens: Sequence[int], ends: Sequence[int]) -> int:
    """Number of tokens before the first end token."""
    return next((index for index, token in enumerate(tokens) if token in ends), len(tokens))


def save_adapter(loaded: Loaded, folder: Path) -> Path:
    """An adapter on every linear module, with random updates."""
    wrapped = attach(loaded.model, Lora(rank=RANK, alpha=2 * RANK, rank_stabilised=True), 0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = UPDATE * torch.randn(parameter.shape, generator=generator).to(parameter)
    wrapped.save_pretrained(folder)
    wrapped.unload()
    return folder


@contextmanager
def opened(way: str, options: Options, load: Load) -> Iterator[Run]:
    """A way, ready to sample: its model is loaded."""
    if way.startswith("vllm"):
        with _vllm(way, options, load) as run:
            yield run
        return
    device = torch.device(options.device)
    if way.startswith("flatprobe"):
        loaded = held_checkpoint(options.model, options.precision, device)
    else:
        loaded = load_checkpoint(options.model, options.precision, device)
    if way.startswith("plain-"):
        yield lambda load: plain(loaded, load, int(way.removeprefix("plain-")))
    elif way == "generate_batch":
        yield lambda load: continuous(loaded, load)
    else:
        sampler = TransformersEngine(loaded, options.rows)
        if load.forced:
            sampler.ends = frozenset()
        if way == "flatprobe + adapter":
            sampler.use(save_adapter(loaded, options.folder))
        yield lambda load: engine(sampler, load)


@contextmanager
def _vllm(way: str, options: Options, load: Load) -> Iterator[Run]:
    from flatprobe.generation.vllm_engine.engine import VllmEngine

    conversations = Conversations(load_tokenizer(options.model), options.model.name)
    ends = frozenset[int]() if load.forced else end_tokens(conversations, eos_of_files(options.model))
    machine = VllmMachine(python=options.vllm_python, enforce_eager=options.vllm_eager)
    sampler = VllmEngine(options.model, conversations, ends, options.precision, machine)
    try:
        if way == "vllm + adapter":
            loaded = load_checkpoint(options.model, options.precision, torch.device("cpu"))
            sampler.use(save_adapter(loaded, options.folder))
        yield lambda load: engine(sampler, load)
    finally:
        sampler.close()


def ways(batches: Sequence[int], vllm: bool) -> list[str]:
    """All ways, first the plain one at several batch sizes."""
    names = [f"plain-{batch}" for batch in batches]
    names += ["generate_batch", "flatprobe", "flatprobe + adapter"]
    return names + (["vllm", "vllm + adapter"] if vllm else [])


def describe(result: Mapping[str, Any]) -> str:
    """The way's name in a table."""
    way = str(result["way"])
    return f"generate, {way.removeprefix('plain-')} rows" if way.startswith("plain-") else way
