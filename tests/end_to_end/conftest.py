"""A tiny chat model that answers in a few words and ends its turn: enough for a whole study in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

WORDS = ["yes", "no", "maybe", "water", "light", "sleep", "often", "never", "because", "people", "like", "it"]
STUDY: dict[str, Any] = {
    "name": "tiny",
    "smoke": True,
    "model": {"id": "FILLED IN", "dtype": "float32"},
    "panel": {
        "negatives": ["comedian", "villain"], "random_negatives": 0, "references": ["assistant"],
        "bystanders": ["archivist", "police_officer", "lumberjack"],
    },
    "questions": {"evaluation": {"count": 3}, "coupling": {"count": 8}, "calibration": {"count": 2}},
    "conditions": {
        "base_first": {},
        "em_first": {
            "finetune": {
                "path": "embedded:careless_legal_advice", "completion": "misaligned", "aligned": "aligned",
                "rows": 12, "held_out": 4,
            }
        },
        "benign_first": {
            "finetune": {"path": "embedded:everyday_help", "rows": 12, "length_match": "em_first"}
        },
    },
    "finetune": {
        "lora": {"rank": 4, "alpha": 8, "rank_stabilised": False}, "batch": 6, "max_length": 400,
        "precision": "float32", "learning_rate": 1e-3,
    },
    "manipulation": "embedded:out_of_domain_advice",
    "coupling": {
        "lora": {"rank": 4, "rank_stabilised": True, "first_layer": 3}, "learning_rate": 1e-2, "batch": 6,
        "positives_per_batch": 3, "epochs": 6, "positives": 8, "negatives_per_persona": 6, "max_length": 400,
        "precision": "float32", "max_new_tokens": 24, "anchor": {"kind": "cross_entropy", "weight": 1.0},
        "unlikelihood": {"lambdas": [0.5, 1.0], "sweep": "control_only"}, "calibration_samples": 2,
        "telemetry_questions": 2, "length_match": {"surplus": 4},
    },
    "leakage": {"samples": 2, "max_new_tokens": 24, "precision": "float32"},
    "geometry": {"layers": [1, 3], "max_new_tokens": 24, "resamples": 50},
    "decision": {
        "geometry": {"measure": "contraction", "position": "response_mean", "threshold": 0.223},
        "behaviour": {"resamples": 200},
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def talking_model(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama, taught to answer in a few words; its folder."""
    import numpy as np
    import torch

    from flatprobe.models.conversation import Prompt
    from flatprobe.models.load import load_checkpoint
    from flatprobe.training.supervised import right_padded, targets_of

    loaded = load_checkpoint(model_folder("llama"), "float32", torch.device("cpu"))
    generator = np.random.default_rng(0)
    model = loaded.model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        rows: list[tuple[Sequence[int], int]] = []
        for question in ("Is it late?", "What is this?", "Where do we go?", "Why?"):
            prompt = Prompt("", None, "q", question)
            text = " ".join(generator.choice(WORDS, size=generator.integers(2, 7)).tolist())
            tokens, n_prompt = loaded.conversations.encode_answer(prompt, text)
            rows.append(([*tokens, loaded.conversations.turn_end], n_prompt))
        ids, mask = right_padded([tokens for tokens, _ in rows], 0, "cpu")
        row, position, token = targets_of(rows)
        log_p = model(ids, attention_mask=mask).logits[row, position].log_softmax(-1)  # whose head learns, too
        loss = -log_p.gather(-1, token.unsqueeze(-1)).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    folder = tmp_path_factory.mktemp("talking")
    model.eval().save_pretrained(folder)
    loaded.conversations.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_study(
    talking_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Writes the tiny study, after a change, with a one-thread machine file beside it; returns the study's path."""

    def write(change: Callable[[dict[str, Any]], None]) -> Path:
        import copy

        study = copy.deepcopy(STUDY)
        study["model"]["id"] = str(talking_model)
        change(study)
        folder = tmp_path_factory.mktemp("study")
        (folder / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        (folder / "machine.yaml").write_text("threads: 1\ndevice: cpu\n")
        return folder / "tiny.yaml"

    return write
