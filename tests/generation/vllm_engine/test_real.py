"""The vLLM engine with vLLM itself; runs only with `-m vllm`, for a few minutes.

FLATPROBE_VLLM_PYTHON names an interpreter with vLLM; a GPU is not needed.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain import PROMPTS, WARM, Trial, check_parity, load_with_adapters, save_model
from scipy.stats import chisquare
from vllm_bench import STAGE

from flatprobe.generation.engine import CompletionRequest, sample
from flatprobe.generation.sample import sample as sample_stage
from flatprobe.generation.stopping import end_tokens, eos_of_files
from flatprobe.generation.vllm_engine.engine import VllmEngine
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.embedded import converted_folder

PYTHON = os.environ.get("FLATPROBE_VLLM_PYTHON")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(PYTHON is None, reason="FLATPROBE_VLLM_PYTHON names no interpreter that has vLLM"),
    pytest.mark.timeout(900),
]

OPTIONS = VllmMachine(python=PYTHON, gpu_memory=0.2, max_model_len=256, enforce_eager=True)


def trial_of(checkpoint: Path, folder: Path) -> Trial:
    loaded, adapters = load_with_adapters(checkpoint, folder)
    ends = end_tokens(loaded.conversations, eos_of_files(checkpoint))
    return Trial(VllmEngine(checkpoint, loaded.conversations, ends, "float32", OPTIONS), loaded, adapters)


@pytest.fixture(scope="module")
def trial(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("vllm")
    made = trial_of(save_model(tokenizer, folder / "model"), folder)
    yield made
    made.engine.close()


def test_base_and_rank_stabilised_adapters_agree_with_transformers_and_peft(trial: Trial) -> None:
    """With a scale of alpha/r instead of alpha/sqrt(r) the updates would be 2 to 3 times too small."""
    check_parity(trial, 1e-3)
    assert trial.engine.facts()["starts"] == 1


def test_first_tokens_follow_the_model_s_own_distribution(trial: Trial) -> None:
    """Including its tail: there is no top_k and no penalty. With top_p, the smallest set of that mass."""
    trial.engine.use(trial.adapters["first"])
    prompt, draws = PROMPTS[0], 3000
    model, ids = trial.reference("first"), trial.loaded.conversations.encode_prompt(PROMPTS[0])
    with torch.inference_mode():
        exact = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()
    order = exact.argsort()[::-1]
    for top_p in (1.0, 0.5):
        nucleus = order[: int(np.searchsorted(np.cumsum(exact[order]), top_p) + 1)] if top_p < 1 else order
        p = np.zeros_like(exact)
        p[nucleus] = exact[nucleus] / exact[nucleus].sum()
        one = replace(WARM, max_new_tokens=1, top_p=top_p)
        (samples,) = sample(trial.engine, [prompt], one, draws)
        end = trial.loaded.conversations.turn_end
        observed = Counter(c.tokens[0] if c.tokens else end for c in samples)
        assert sum(observed[token] for token in np.flatnonzero(p == 0)) == 0
        frequent = [t for t in nucleus if p[t] * draws >= 8]
        counts = [observed[t] for t in frequent]
        expected = [p[t] * draws for t in frequent]
        counts.append(draws - sum(counts))
        expected.append(draws - sum(expected))
        if expected[-1] < 5:
            counts, expected = counts[:-1], [e * sum(counts[:-1]) / sum(expected[:-1]) for e in expected[:-1]]
        assert chisquare(counts, expected).pvalue > 1e-3


def test_a_completion_does_not_depend_on_its_position_and_neighbours_in_the_batch(trial: Trial) -> None:
    trial.engine.use(trial.adapters["second"])
    requests = [CompletionRequest(prompt, k) for prompt in PROMPTS for k in range(4)]
    together = dict(trial.engine.stream(requests, WARM))
    assert len({c.tokens for c in together.values()}) == len(requests)
    backwards = dict(trial.engine.stream(requests[::-1], WARM))
    alone = dict(trial.engine.stream(requests[5:6], WARM))
    assert [backwards[15 - index] for index in range(16)] == [together[index] for index in range(16)]
    assert alone[0] == together[5]


def test_answers_end_at_an_end_token_or_a_text_to_stop_at(trial: Trial) -> None:
    trial.engine.use(None)
    requests = [CompletionRequest(prompt, k) for prompt in PROMPTS for k in range(4)]
    whole = dict(trial.engine.stream(requests, WARM))
    tokens = [c.tokens for c in whole.values()]
    end = Counter(token for row in tokens for token in set(row)).most_common(1)[0][0]
    trial.engine.ends, before = frozenset([end]), trial.engine.ends
    ended = dict(trial.engine.stream(requests, WARM))
    trial.engine.ends = before
    assert "stop" in {c.finish_reason for c in ended.values()}
    for index, completion in ended.items():
        length = tokens[index].index(end) if end in tokens[index] else len(tokens[index])
        assert completion.tokens == tokens[index][:length]
    cut = dict(trial.engine.stream(requests, replace(WARM, stop_at="e")))
    assert "marker" in {c.finish_reason for c in cut.values()}
    for index, completion in cut.items():
        assert whole[index].tokens[: len(completion.tokens)] == completion.tokens
        assert completion.finish_reason != "marker" or completion.text.lower().count("e") >= 1


def test_a_process_killed_while_sampling_is_replaced_and_no_completion_is_lost(trial: Trial) -> None:
    trial.engine.use(trial.adapters["first"])
    requests = [CompletionRequest(prompt, k) for prompt in PROMPTS for k in range(8)]
    long = replace(WARM, max_new_tokens=60)
    whole = dict(trial.engine.stream(requests, long))
    first, completions = trial.engine.pid, {}
    assert first is not None
    for index, completion in trial.engine.stream(requests, long):
        if not completions:
            os.kill(first, signal.SIGKILL)
        completions[index] = completion
    assert completions == whole
    assert trial.engine.pid != first
    assert trial.engine.facts()["restarts"] == 1
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_closing_the_engine_leaves_nothing(trial: Trial) -> None:
    pid = trial.engine.pid
    assert pid is not None
    trial.engine.close()
    freed = trial.engine.freed
    assert freed is not None and freed.processes_gone
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    if freed.used_before is not None and freed.used_after is not None:
        assert all(after <= before + 64 for before, after in zip(freed.used_before, freed.used_after, strict=True))


def test_a_stage_uses_one_process_for_checks_base_and_adapter(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = current_machine().model_copy(update={"engine": "vllm", "vllm": OPTIONS})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    checkpoint, first = Path(trial.loaded.model.name_or_path), trial.adapters["first"]
    assert first is not None
    (tmp_path / "coupling").mkdir()
    (tmp_path / "coupling" / "adapter").symlink_to(first)
    (tmp_path / "out").mkdir()
    inputs = {"checkpoint": checkpoint, "adapter": tmp_path / "coupling"}
    sample_stage(STAGE.model_copy(update={"parity_prompts": 2}), inputs, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["engine"]["starts"] == 1 and facts["engine"]["freed"] is None
    assert facts["parity"]["agreed"] == facts["parity"]["tokens"] > 0
    assert facts["canary"]["max_log_p_change"] > 0.1 > 10 * facts["canary"]["base_again_change"]


def test_the_demo_s_model_agrees_with_transformers_and_peft(tmp_path: Path) -> None:
    made = trial_of(converted_folder(), tmp_path)
    try:
        check_parity(made, 5e-3)
    finally:
        made.engine.close()
