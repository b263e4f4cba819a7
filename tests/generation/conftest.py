"""Fixtures of the engines' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm_bench import DOUBLES, Bench

from flatprobe.generation.vllm_engine import link as vllm_link
from flatprobe.models.load import Loaded


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> Iterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", str(DOUBLES))
    monkeypatch.setattr(vllm_link, "GRACE", 5.0)
    made = Bench(monkeypatch, model_folder("llama"), load("llama"), tmp_path, [])
    made.faults()
    yield made
    for engine in made.engines:
        engine.close()
