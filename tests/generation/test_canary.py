from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_files import adapter

from flatprobe.errors import UserError
from flatprobe.generation.canary import Canary, canary_facts, smallest_change
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded


def facts(reading: list[float], change: float = 1.0, again: float = 0.0) -> dict[str, Any]:
    return {"max_log_p_change": change, "base_again_change": again, "reading": reading}


def test_adapters_read_unlike_the_base_and_each_other_and_the_base_reads_like_itself(
    load: Callable[[str], Loaded], prompts: list[Prompt], tmp_path: Path
) -> None:
    folders = [adapter(load("llama").model, tmp_path / str(seed), 0.2, seed) for seed in (1, 2)]
    engine = TransformersEngine(load("llama"), 8)
    canary = Canary.of(engine.conversations, prompts)
    found = []
    for folder in folders:
        base = canary.read(engine)
        engine.use(folder)
        adapted = canary.read(engine)
        engine.use(None)
        found.append(canary_facts(base, adapted, canary.read(engine)))
    assert all(canary["max_log_p_change"] > 0.01 and canary["base_again_change"] == 0.0 for canary in found)
    told = smallest_change(found, found)
    assert told is not None and told > 0.01


def test_an_adapter_that_computes_what_another_does_is_not_told_apart() -> None:
    one, two = facts([-1.0, -2.0]), facts([-1.0, -2.5])
    assert smallest_change([one, two], [one, two]) == 0.5
    assert smallest_change([one], [one, facts([-1.0, -2.0])]) == 0.0
    assert smallest_change([one], [one, facts([-1.0])]) == 1.0  # of other prompts: nothing to compare


def test_a_change_counts_beyond_what_the_base_changes_by_itself() -> None:
    assert smallest_change([facts([1.0], change=0.3, again=0.1)], []) == pytest.approx(0.2)
    assert smallest_change([facts([1.0], change=0.1, again=0.3)], []) == 0.0


def test_an_engine_that_scores_nothing_leaves_the_canary_unevaluated(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    class Mute(TransformersEngine):
        def log_probabilities(self, contexts: Any, targets: Any) -> list[list[float]]:
            raise UserError.one("test.some", "engine", "scores no prompt")

    engine = Mute(load("llama"), 8)
    read = Canary.of(engine.conversations, prompts).read(engine)
    found = canary_facts(read, read, read)
    assert found["reading"] == "engine  scores no prompt" and found["max_log_p_change"] is None
    assert smallest_change([found], [found]) is None
    assert smallest_change([], []) is None
