"""Models and rows to read states from: real ones, or a published shape with random weights and tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from flatprobe.activations.positions import ProbedRow, probed_row
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study import resources

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    },
    "tiny": {
        "model_type": "qwen2",
        "vocab_size": 50000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    },
}  # fmt: skip
"""Configurations of published models, and a tiny one to try a benchmark; weights are random."""
ANSWERS = "finetune/everyday_help.jsonl"
PERSONA_TOKENS, QUESTION_TOKENS = 28, 22  # of random rows, about the package's panel with Qwen's template


@dataclass(frozen=True)
class Size:
    """Number of rows and length of their answers."""

    personas: int
    questions: int
    answer: int
    """Words of a real answer, tokens of a random one."""


def load_real(path: Path, device: torch.device, dtype: torch.dtype) -> Loaded:
    from flatprobe.models.load import load_checkpoint

    return load_checkpoint(path, "bfloat16" if dtype is torch.bfloat16 else "float32", device)


def real_rows(loaded: Loaded, size: Size) -> list[ProbedRow]:
    """The package's first personas and questions, with the first words of an embedded set's answers."""
    import yaml

    def read(name: str) -> Any:
        return yaml.safe_load(resources.path(name).read_text(encoding="utf-8"))

    personas = list(read("panel.yaml")["personas"].items())[: size.personas]
    questions = read("questions.yaml")["evaluation"][: size.questions]
    lines = resources.path(ANSWERS).read_text(encoding="utf-8").splitlines()
    answers = [" ".join(json.loads(line)["completion"].split()[: size.answer]) for line in lines]
    prompts = [
        Prompt(name, persona["prompt"], question["id"], question["text"])
        for (name, persona), question in product(personas, questions)
    ]
    return [
        probed_row(loaded.conversations, prompt, answers[number % len(answers)])
        for number, prompt in enumerate(prompts)
    ]


def load_shape(name: str, device: torch.device, dtype: torch.dtype) -> Loaded:
    """A model with a published shape and random weights; its conversations have a pad token only."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_default_dtype(dtype)
    with device:
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[name]))  # type: ignore[no-untyped-call]
    model.eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator(device).manual_seed(0)
    for weights in model.parameters():  # the same in every process
        if weights.ndim > 1:
            weights.normal_(0.0, 0.02, generator=generator)
    conversations: Any = SimpleNamespace(turn_end=0)
    return Loaded(model, conversations, device)


def random_rows(size: Size) -> list[ProbedRow]:
    """Random tokens: a prefix per persona, a question, an answer whose length varies by half, an end of turn."""
    generator = np.random.default_rng(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(generator.integers(10, 10_000, count).tolist())

    heads: Sequence[tuple[int, ...]] = [draw(PERSONA_TOKENS) for _ in range(size.personas)]
    questions = [draw(QUESTION_TOKENS) for _ in range(size.questions)]
    rows = []
    for (p, head), (q, question) in product(enumerate(heads), enumerate(questions)):
        answer = draw(int(size.answer * generator.uniform(0.5, 1.5)))
        tokens = (*head, *question, *answer, 0)
        rows.append(ProbedRow(f"p{p}", f"q{q}", tokens, len(head) + len(question), len(tokens) - 2))
    return rows
