"""Tiny models with random weights, one of every family that the geometric probe supports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

BLOCKS, WIDTH, VOCABULARY, WINDOW = 4, 32, 64, 5

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "smollm2": ("LlamaConfig", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1, 0]}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-windowed": (
        "Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"head_dim": 8, "sliding_window": WINDOW}),
    "mistral-unwindowed": ("MistralConfig", {"head_dim": 8, "sliding_window": None}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 10.0},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
}  # fmt: skip


def random_model(family: str) -> Any:
    """An untrained causal language model of a family, in evaluation mode."""
    import transformers

    name, options = FAMILIES[family]
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    torch.manual_seed(sorted(FAMILIES).index(family))
    torch.set_num_threads(1)
    config = getattr(transformers, name)(**common | options)
    model: Any = transformers.AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def family_model() -> Callable[[str], Any]:
    """A family's model, built once. Tests must not change it."""
    built: dict[str, Any] = {}

    def model(family: str) -> Any:
        if family not in built:
            built[family] = random_model(family)
        return built[family]

    return model
