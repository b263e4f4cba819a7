from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import adapter

from flatprobe.errors import UserError
from flatprobe.generation.engine import Completion, CompletionRequest, SamplingSettings, sample
from flatprobe.generation.parity import GREEDY, parity, plain_answers
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded


class Changed(TransformersEngine):
    """An engine with changed answers."""

    def change(self, completion: Completion) -> Completion:
        return completion

    def stream(self, requests: Sequence[CompletionRequest], settings: SamplingSettings) -> Iterator[Any]:
        for index, completion in super().stream(requests, settings):
            yield index, self.change(completion)


def test_the_engine_agrees_with_generate_and_a_changed_engine_does_not(loaded: Loaded, prompts: list[Prompt]) -> None:
    answers = plain_answers(loaded, prompts, None)
    facts = parity(TransformersEngine(loaded, 64), answers)
    assert facts["agreed"] == facts["tokens"] > 0 and facts["prompts"] == 5
    assert facts["log_p_difference"]["max"] < 1e-4
    assert facts["log_p_difference"]["tokens"] == facts["tokens"]

    class Broken(Changed):
        def change(self, completion: Completion) -> Completion:
            tokens = completion.tokens
            return Completion("", (*tokens[:6], 7, *tokens[7:]), completion.finish_reason)

    counts = parity(Broken(loaded, 8), answers)
    assert counts["tokens"] == facts["tokens"]
    assert counts["agreed"] <= 6 * len(prompts)


def test_parity_counts_an_end_that_only_one_side_has(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    class Cut(Changed):
        def change(self, completion: Completion) -> Completion:
            return Completion("", completion.tokens[:3], "stop")

    loaded = load("llama")
    assert parity(Cut(loaded, 8), plain_answers(loaded, prompts, None))["agreed"] == 3 * len(prompts)


def test_log_probabilities_can_differ_although_greedy_tokens_agree(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    class Sharper(TransformersEngine):
        def log_probabilities(self, contexts: Any, targets: Any) -> list[list[float]]:
            return [[value + 0.25 for value in row] for row in super().log_probabilities(contexts, targets)]

    loaded = load("llama")
    facts = parity(Sharper(loaded, 8), plain_answers(loaded, prompts, None))
    assert facts["agreed"] == facts["tokens"]
    assert facts["log_p_difference"]["mean"] == pytest.approx(0.25, abs=1e-4)


def test_without_log_probabilities_only_tokens_are_compared_and_the_reason_is_recorded(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    class Mute(TransformersEngine):
        def log_probabilities(self, contexts: Any, targets: Any) -> list[list[float]]:
            raise UserError.one("test.some", "engine", "scores no prompt")

    loaded = load("llama")
    facts = parity(Mute(loaded, 8), plain_answers(loaded, prompts, None))
    assert facts["agreed"] == facts["tokens"] > 0
    assert facts["log_p_difference"] == {"refused": "engine  scores no prompt"}


def test_the_reference_ignores_the_checkpoint_s_generation_settings(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    loaded = load("qwen2")
    original = loaded.model.generation_config
    original.repetition_penalty, original.no_repeat_ngram_size = 1.3, 2
    with torch.no_grad():
        ids = torch.tensor([loaded.conversations.encode_prompt(prompts[0])])
        disturbed = loaded.model.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :].tolist()
    engine = TransformersEngine(loaded, 64)
    ((ours,),) = sample(engine, prompts[:1], GREEDY)
    assert list(ours.tokens[:16]) != disturbed  # the settings do matter
    counts = parity(engine, plain_answers(loaded, prompts, None))
    assert counts["agreed"] == counts["tokens"]
    assert loaded.model.generation_config is original and original.repetition_penalty == 1.3


def test_the_reference_computes_an_adapter_without_changing_the_weights(
    load: Callable[[str], Loaded], prompts: list[Prompt], tmp_path: Path
) -> None:
    folder = adapter(load("llama").model, tmp_path / "a", 0.3)
    loaded = load("llama")
    base, adapted = plain_answers(loaded, prompts, None), plain_answers(loaded, prompts, folder)
    assert [a.tokens for a in base] != [a.tokens for a in adapted]
    assert plain_answers(loaded, prompts, None) == base
    engine = TransformersEngine(loaded, 8)
    assert parity(engine, adapted)["agreed"] < parity(engine, base)["agreed"]
    engine.use(folder)
    facts = parity(engine, adapted)
    assert facts["agreed"] == facts["tokens"]
    assert facts["log_p_difference"]["max"] < 1e-3
