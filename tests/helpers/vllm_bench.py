"""A checkpoint and the vLLM engine on it, with a double of vLLM in its process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flatprobe.generation.engine import CompletionRequest, SamplingSettings
from flatprobe.generation.vllm_engine.engine import VllmEngine
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import SampleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach

WARM = SamplingSettings(max_new_tokens=12, temperature=1.0, top_p=1.0, seed="warm")
STAGE = SampleSettings(
    personas=(Persona(name="librarian", role="source", system="You are a librarian."),),
    questions=tuple(Question(id=f"q{i}", kind="factual", text=f"What floats, {i}?") for i in range(2)),
    samples=2, max_new_tokens=6, temperature=1.0, top_p=1.0, precision="float32", seed="stage", stop_at=None,
    parity_prompts=0,
)  # fmt: skip
DOUBLES = Path(__file__).with_name("doubles")


@dataclass
class Bench:
    """A checkpoint, the faults of the double, and the arguments of its starts."""

    monkeypatch: pytest.MonkeyPatch
    checkpoint: Path
    loaded: Loaded
    folder: Path
    engines: list[VllmEngine]

    def faults(self, **faults: Any) -> None:
        faults["starts"] = str(self.folder / "starts")
        self.monkeypatch.setenv("FLATPROBE_TEST_FAULTS", json.dumps(faults))

    def engine(self, options: VllmMachine | None = None, ends: frozenset[int] = frozenset()) -> VllmEngine:
        engine = VllmEngine(self.checkpoint, self.loaded.conversations, ends, "float32", options or VllmMachine())
        self.engines.append(engine)
        return engine

    @property
    def starts(self) -> list[dict[str, Any]]:
        path = self.folder / "starts"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def adapter(self, name: str, rank: int, seed: int) -> Path:
        wrapped = attach(self.loaded.model, Lora(rank=rank, alpha=8.0, rank_stabilised=True), seed)
        wrapped.save_pretrained(self.folder / name)
        wrapped.unload()
        return self.folder / name


def requests_of(prompts: list[Prompt], samples: int) -> list[CompletionRequest]:
    return [CompletionRequest(prompt, index) for prompt in prompts for index in range(samples)]
