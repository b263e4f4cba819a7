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
    """An engine whose answers and scores are changed on the way out."""

    def change(self, completion: Completion) -> Completion:
        return completion

    def stream(self, requests: Sequence[CompletionRequest], settings: SamplingSettings) -> Iterator[Any]:
        for index, completion in super().stream(requests, settings):
            yield index, self.change(completion)


def test_parity_with_generate_is_complete_and_a_changed_engine_is_noticed(
    loaded: Loaded, prompts: list[Prompt]
) -> None:
    answers = plain_answers(loaded, prompts, None)
    found = parity(TransformersEngine(loaded, 64), answers)
    assert found["agreed"] == found["tokens"] > 0 and found["prompts"] == 5
    assert found["log_p_difference"]["max"] < 1e-4
    assert found["log_p_difference"]["tokens"] == found["tokens"]

    class Broken(Changed):
        def change(self, completion: Completion) -> Completion:
            tokens = completion.tokens
            return Completion("", (*tokens[:6], 7, *tokens[7:]), completion.finish_reason)

    counts = parity(Broken(loaded, 8), answers)
    assert counts["tokens"] == found["tokens"]
    assert counts["agreed"] <= 6 * len(prompts)


def test_parity_counts_an_end_that_only_one_side_has(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    class Cut(Changed):
        def change(self, completion: Completion) -> Completion:
            return Completion("", completion.tokens[:3], "stop")

    loaded = load("llama")
    assert parity(Cut(loaded, 8), plain_answers(loaded, prompts, None))["agreed"] == 3 * len(prompts)


def test_a_difference_of_log_probabilities_is_seen_where_the_greedy_tokens_are_the_same(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    class Sharper(TransformersEngine):
        def log_probabilities(self, contexts: Any, targets: Any) -> list[list[float]]:
            return [[value + 0.25 for value in row] for row in super().log_probabilities(contexts, targets)]

    loaded = load("llama")
    found = parity(Sharper(loaded, 8), plain_answers(loaded, prompts, None))
    assert found["agreed"] == found["tokens"]
    assert found["log_p_difference"]["mean"] == pytest.approx(0.25, abs=1e-4)


def test_an_engine_without_log_probabilities_says_why_and_is_compared_by_its_tokens(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    class Mute(TransformersEngine):
        def log_probabilities(self, contexts: Any, targets: Any) -> list[list[float]]:
            raise UserError.one("test.some", "engine", "scores no prompt")

    loaded = load("llama")
    found = parity(Mute(loaded, 8), plain_answers(loaded, prompts, None))
    assert found["agreed"] == found["tokens"] > 0
    assert found["log_p_difference"] == {"refused": "engine  scores no prompt"}


def test_the_reference_is_not_disturbed_by_the_checkpoint_s_own_generation_settings(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    loaded = load("qwen2")
    own = loaded.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size = 1.3, 2
    with torch.no_grad():
        ids = torch.tensor([loaded.conversations.encode_prompt(prompts[0])])
        disturbed = loaded.model.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :].tolist()
    engine = TransformersEngine(loaded, 64)
    ((ours,),) = sample(engine, prompts[:1], GREEDY)
    assert list(ours.tokens[:16]) != disturbed  # the settings do matter
    counts = parity(engine, plain_answers(loaded, prompts, None))
    assert counts["agreed"] == counts["tokens"]
    assert loaded.model.generation_config is own and own.repetition_penalty == 1.3


def test_with_an_adapter_the_reference_has_it_beside_the_weights_and_leaves_them_alone(
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
    found = parity(engine, adapted)
    assert found["agreed"] == found["tokens"]
    assert found["log_p_difference"]["max"] < 1e-3
