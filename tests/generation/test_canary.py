from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_files import adapter

from flatprobe.errors import UserError
from flatprobe.facts import CanaryFacts
from flatprobe.generation.canary import Canary, canary_facts, smallest_change
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded


def facts(reading: list[float], change: float = 1.0, again: float = 0.0) -> CanaryFacts:
    return CanaryFacts(max_log_p_change=change, base_again_change=again, reading=reading)


def test_readings_differ_between_adapters_and_base_and_the_base_is_restored(
    load: Callable[[str], Loaded], prompts: list[Prompt], tmp_path: Path
) -> None:
    folders = [adapter(load("llama").model, tmp_path / str(seed), 0.2, seed) for seed in (1, 2)]
    engine = TransformersEngine(load("llama"), 8)
    canary = Canary.of(engine.conversations, prompts)
    canaries = []
    for folder in folders:
        base = canary.read(engine)
        engine.use(folder)
        adapted = canary.read(engine)
        engine.use(None)
        canaries.append(canary_facts(base, adapted, canary.read(engine)))
    assert all((c.max_log_p_change or 0.0) > 0.01 and c.base_again_change == 0.0 for c in canaries)
    smallest = smallest_change(canaries, canaries)
    assert smallest is not None and smallest > 0.01


def test_two_adapters_with_the_same_reading_have_a_smallest_change_of_0() -> None:
    one, two = facts([-1.0, -2.0]), facts([-1.0, -2.5])
    assert smallest_change([one, two], [one, two]) == 0.5
    assert smallest_change([one], [one, facts([-1.0, -2.0])]) == 0.0
    assert smallest_change([one], [one, facts([-1.0])]) == 1.0  # other prompts: not comparable


def test_the_base_s_own_change_is_subtracted() -> None:
    assert smallest_change([facts([1.0], change=0.3, again=0.1)], []) == pytest.approx(0.2)
    assert smallest_change([facts([1.0], change=0.1, again=0.3)], []) == 0.0


def test_without_scores_the_canary_is_not_evaluated(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    class Mute(TransformersEngine):
        def log_probabilities(self, contexts: Any, targets: Any) -> list[list[float]]:
            raise UserError.one("test.some", "engine", "scores no prompt")

    engine = Mute(load("llama"), 8)
    refusal = Canary.of(engine.conversations, prompts).read(engine)
    canary = canary_facts(refusal, refusal, refusal)
    assert canary.reading == "engine  scores no prompt" and canary.max_log_p_change is None
    assert smallest_change([canary], [canary]) is None
    assert smallest_change([], []) is None
