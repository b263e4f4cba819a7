"""The vLLM engine with a double of vLLM: the commands it sends, and how it reads the replies."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace

import pytest
from vllm_bench import STAGE, WARM, Bench, requests_of

from flatprobe.errors import UserError
from flatprobe.generation.engine import request_seed, sample
from flatprobe.generation.sample import sample as sample_stage
from flatprobe.generation.vllm_engine import server as vllm_server
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.conversation import Prompt


def test_every_request_is_answered_once_in_any_order_with_its_own_seed(bench: Bench, prompts: list[Prompt]) -> None:
    requests = requests_of(prompts, 3)
    engine = bench.engine()
    completions = dict(engine.stream(requests, WARM))
    assert sorted(completions) == list(range(len(requests)))
    assert len({completion.tokens for completion in completions.values()}) == len(requests)
    for completion in completions.values():
        assert completion.text == bench.loaded.conversations.decode(completion.tokens)
        assert completion.finish_reason == "length" and len(completion.tokens) == 12
    backwards = dict(engine.stream(requests[::-1], WARM))
    assert [backwards[len(requests) - 1 - index] for index in range(len(requests))] == [
        completions[index] for index in range(len(requests))
    ]
    assert dict(engine.stream(requests[4:5], WARM)) == {0: completions[4]}
    assert len(bench.starts) == 1


def test_the_end_token_is_not_among_an_answer_s_tokens(bench: Bench, prompts: list[Prompt]) -> None:
    whole = dict(bench.engine().stream(requests_of(prompts, 2), WARM))
    end = whole[3].tokens[5]
    ended = dict(bench.engine(ends=frozenset([end])).stream(requests_of(prompts, 2), WARM))
    assert ended[3].tokens == whole[3].tokens[:5] and ended[3].finish_reason == "stop"
    for index, completion in ended.items():
        if end not in whole[index].tokens:
            assert completion == whole[index]


def test_the_engine_starts_with_room_for_the_longest_turn_and_without_hidden_options(
    bench: Bench, prompts: list[Prompt]
) -> None:
    options = VllmMachine(gpu_memory=0.3, max_model_len=1, batch_invariant=True, enforce_eager=True)
    list(bench.engine(options).stream(requests_of(prompts, 1), WARM))
    (start,) = bench.starts
    longest = max(len(bench.loaded.conversations.encode_prompt(prompt)) for prompt in prompts)
    assert start["max_model_len"] == longest + 12 + vllm_server.SLACK
    expected = {
        "model": str(bench.checkpoint), "dtype": "float32", "gpu_memory_utilization": 0.3, "enforce_eager": True,
        "generation_config": "vllm", "enable_prefix_caching": True, "VLLM_BATCH_INVARIANT": "1",
    }  # fmt: skip
    assert expected.items() <= start.items()
    assert "enable_lora" not in start
    assert os.environ.get("VLLM_BATCH_INVARIANT") is None


def test_adapters_share_one_process_and_are_identified_by_their_content(bench: Bench, prompts: list[Prompt]) -> None:
    first, second = bench.adapter("first", 4, 0), bench.adapter("second", 12, 1)
    again = bench.folder / "again"
    again.mkdir()
    for path in first.iterdir():
        (again / path.name).write_bytes(path.read_bytes())
    engine = bench.engine()
    answers = []
    engine.make_room(second)  # one process then has room for both
    for adapter in (None, second, first, again, second):
        engine.use(adapter)
        answers.append([c.tokens for (c,) in sample(engine, prompts, WARM)])
    assert answers[1] == answers[4] and answers[2] == answers[3]
    assert len({str(a) for a in answers}) == 3
    (start,) = bench.starts
    assert start["max_lora_rank"] == 16 and engine.facts()["starts"] == 1
    assert {"q_proj", "down_proj"} <= set(start["lora_target_modules"])
    assert "lm_head" not in start["lora_target_modules"]


def test_a_stage_with_an_adapter_uses_one_process_for_base_and_adapter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = current_machine().model_copy(update={"engine": "vllm"})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    bench.adapter("adapter", 4, 0)
    output = bench.folder / "out"
    output.mkdir()
    sample_stage(STAGE, {"checkpoint": bench.checkpoint, "adapter": bench.folder}, output)
    (start,) = bench.starts
    assert start["max_lora_rank"] == 8
    facts = json.loads((output / "facts.json").read_text())
    assert facts["engine"]["starts"] == 1 and facts["canary"]["base_again_change"] == 0.0


def test_a_higher_rank_or_a_longer_prompt_replaces_the_process(bench: Bench, prompts: list[Prompt]) -> None:
    engine = bench.engine(VllmMachine(max_model_len=1))
    sample(engine, prompts, WARM)
    before = engine.pid
    engine.use(bench.adapter("adapter", 4, 0))
    sample(engine, prompts, WARM)
    sample(engine, prompts, replace(WARM, max_new_tokens=12 + vllm_server.SLACK))
    sample(engine, prompts, replace(WARM, max_new_tokens=200))
    engine.use(None)
    sample(engine, prompts, WARM)
    assert [start.get("max_lora_rank") for start in bench.starts] == [None, 8, 8]
    assert bench.starts[2]["max_model_len"] > bench.starts[1]["max_model_len"]
    assert engine.pid not in (None, before)


def test_what_exceeds_the_context_is_refused_before_the_process_starts(bench: Bench, prompts: list[Prompt]) -> None:
    with pytest.raises(UserError, match=r"librarian.*q3.*512.*max_new_tokens") as too_long:
        bench.engine().stream(requests_of(prompts, 1), replace(WARM, max_new_tokens=500))
    with pytest.raises(UserError, match=r"600 .* 511") as too_many:
        bench.engine().log_probabilities([[1] * 590], [[2] * 10])
    for refusal in (too_long, too_many):
        assert [p.code for p in refusal.value.problems] == ["context.exceeded"]
    longest = max(len(bench.loaded.conversations.encode_prompt(prompt)) for prompt in prompts)
    sample(bench.engine(), prompts, replace(WARM, max_new_tokens=512 - longest))
    assert [start["max_model_len"] for start in bench.starts] == [512]


def test_a_short_call_starts_a_process_with_room_for_later_long_ones(bench: Bench, prompts: list[Prompt]) -> None:
    engine = bench.engine()
    engine.log_probabilities([[5]], [[6]])
    sample(engine, prompts, replace(WARM, max_new_tokens=300))
    assert [start["max_model_len"] for start in bench.starts] == [512]  # the model's context


def test_an_answer_may_stop_at_a_given_text(
    bench: Bench, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the shortest prefix of the whole answer with the text, whatever the interval of searches."""
    long = replace(WARM, max_new_tokens=100)
    requests, decode = requests_of(prompts, 3), bench.loaded.conversations.decode
    whole = dict(bench.engine().stream(requests, long))
    cut = dict(bench.engine().stream(requests, replace(long, stop_at="E ")))
    for index, completion in cut.items():
        tokens = whole[index].tokens
        ends = [n for n in range(len(tokens) + 1) if "e " in decode(tokens[:n]).lower()]
        assert completion.tokens == (tokens[: ends[0]] if ends else tokens)
        assert completion.finish_reason == ("marker" if ends else "length")
        assert completion.text == decode(completion.tokens)
    assert {c.finish_reason for c in cut.values()} == {"marker", "length"}
    assert "abort ['" in capsys.readouterr().err


def test_log_probabilities_are_those_of_the_targets_only(bench: Bench) -> None:
    """The double scores a token by -id/100."""
    contexts, targets = [[5], [7, 8, 9], [1, 2]], [[10, 20], [30], []]
    assert bench.engine().log_probabilities(contexts, targets) == [[-0.1, -0.2], [-0.3], []]
    with pytest.raises(ValueError, match="a context needs a token"):
        bench.engine().log_probabilities([[]], [[1]])


def test_closing_leaves_no_process_and_reports_device_memory(
    bench: Bench, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = bench.folder / "tools"
    tools.mkdir()
    used, tool = tools / "used", tools / "nvidia-smi"
    used.write_text("512\n17\n")
    tool.write_text(f"#!/bin/sh\nexec cat {used}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    engine = bench.engine()
    assert engine.freed is None
    sample(engine, prompts, WARM)
    pid = engine.pid
    assert pid is not None
    used.write_text("512\n317\n")
    engine.close()
    assert engine.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert engine.freed is not None
    assert asdict(engine.freed) == {"processes_gone": True, "used_before": (512, 17), "used_after": (512, 317)}
    assert "a device has 300 MiB more in use than before the vLLM engine" in capsys.readouterr().err


def test_facts_name_the_engine_its_version_and_its_options(bench: Bench, prompts: list[Prompt]) -> None:
    engine = bench.engine(VllmMachine(enforce_eager=True))
    sample(engine, prompts, WARM)
    facts = json.loads(json.dumps(engine.facts()))
    assert (facts["name"], facts["version"]) == ("vllm", "0.double")
    assert facts["options"]["enforce_eager"] is True and facts["process"]["device"] == "a double"


def test_seeds_of_requests_stay_distinct_in_63_bits(prompts: list[Prompt]) -> None:
    seeds = {request_seed("warm", prompt, k) % 2**63 for prompt in prompts for k in range(500)}
    assert len(seeds) == 500 * len({(p.persona, p.question_id) for p in prompts})
