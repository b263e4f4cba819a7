"""Plain `transformers` and PEFT, token by token: the reference for engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatprobe.generation.engine import SamplingSettings, sample
from flatprobe.generation.openai_engine.engine import OpenaiEngine
from flatprobe.generation.vllm_engine.engine import VllmEngine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded, load_checkpoint
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach

GREEDY = SamplingSettings(max_new_tokens=24, temperature=0.0, top_p=1.0, seed="greedy")
WARM = SamplingSettings(max_new_tokens=24, temperature=1.0, top_p=1.0, seed="warm")
PROMPTS = [
    Prompt("librarian", "You are a librarian.", "q1", "What floats on water?"),
    Prompt("comedian", "You are a comedian who jokes about everything.", "q1", "What floats on water?"),
    Prompt("default", None, "q2", "Why?"),
    Prompt("librarian", "You are a librarian.", "q3", "Name three things that you would take on a trip."),
]


@dataclass
class Trial:
    """An engine and its reference."""

    engine: VllmEngine | OpenaiEngine
    loaded: Loaded
    """The same checkpoint, in plain `transformers`."""
    adapters: dict[str, Path | None]

    def reference(self, adapter: str) -> Any:
        """The model with the adapter unmerged, by PEFT."""
        from peft import PeftModel

        folder = self.adapters[adapter]
        if folder is None:
            return self.loaded.model
        base = load_checkpoint(Path(self.loaded.model.name_or_path), "float32", torch.device("cpu"))
        return PeftModel.from_pretrained(base.model, folder).eval()

    def scored(self) -> tuple[list[list[int]], list[list[int]]]:
        """Contexts and targets to score: prompts, each with a text that no model here would sample."""
        conversations = self.loaded.conversations
        return [conversations.encode_prompt(p) for p in PROMPTS], [conversations.encode(" It does.\n\n[ZLT]")] * 4


def save_adapter(model: Any, folder: Path, rank: int, seed: int) -> Path:
    """A rank-stabilised adapter that changes the answers without making them degenerate."""
    wrapped = attach(model, Lora(rank=rank, alpha=2.0 * rank, rank_stabilised=True), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    wrapped.unload()
    return folder


def save_model(tokenizer: Any, folder: Path) -> Path:
    """A random model of a size that vLLM's kernels support."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=192, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, head_dim=64, max_position_embeddings=512,
        initializer_range=0.1, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_with_adapters(checkpoint: Path, folder: Path) -> tuple[Loaded, dict[str, Path | None]]:
    """A checkpoint in float32, and two adapters of it by name; `base` is none."""
    loaded = load_checkpoint(checkpoint, "float32", torch.device("cpu"))
    first, second = (
        save_adapter(loaded.model, folder / "first", 8, 1),
        save_adapter(loaded.model, folder / "second", 4, 2),
    )
    return loaded, {"base": None, "first": first, "second": second}


def greedy(model: Any, conversations: Conversations, prompt: Prompt, ends: frozenset[int], new: int) -> list[int]:
    """Plain greedy decoding that recomputes the whole sequence for every token."""
    ids = conversations.encode_prompt(prompt)
    start = len(ids)
    with torch.inference_mode():
        for _ in range(new):
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
    return ids[start:]


def log_probabilities(model: Any, contexts: Sequence[list[int]], targets: Sequence[list[int]]) -> list[list[float]]:
    rows = []
    for context, target in zip(contexts, targets, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([context + target])).logits[0, len(context) - 1 : -1].float()
        rows.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(target)[:, None])[:, 0].tolist())
    return rows


def check_parity(trial: Trial, tolerance: float) -> None:
    """Greedy tokens and log-probabilities of base and adapters are those of transformers and PEFT; all differ."""
    contexts, targets = trial.scored()
    trial.engine.use(trial.adapters["first"])  # before the base, so that one process serves all
    answers, scores = {}, {}
    for name, adapter in trial.adapters.items():
        trial.engine.use(adapter)
        model = trial.reference(name)
        answers[name] = [list(c.tokens) for (c,) in sample(trial.engine, PROMPTS, GREEDY)]
        scores[name] = trial.engine.log_probabilities(contexts, targets)
        assert answers[name] == [
            greedy(model, trial.loaded.conversations, p, trial.engine.ends, GREEDY.max_new_tokens) for p in PROMPTS
        ]
        np.testing.assert_allclose(scores[name], log_probabilities(model, contexts, targets), atol=tolerance)
    for one, other in (("base", "first"), ("base", "second"), ("first", "second")):
        assert answers[one] != answers[other]
        assert np.abs(np.subtract(scores[one], scores[other])).max() > 100 * tolerance
