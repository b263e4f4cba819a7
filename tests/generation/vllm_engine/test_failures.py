"""Failures of the vLLM process and of its input; the double is given the fault."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from typing import Any

import pytest
from vllm_bench import DOUBLES, WARM, Bench, requests_of

from flatprobe.errors import UserError
from flatprobe.generation.engine import sample
from flatprobe.generation.vllm_engine.server import EngineFailed
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach


def test_an_adapter_of_another_base_is_refused(
    bench: Bench, prompts: list[Prompt], load: Callable[[str], Loaded]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    wider = AutoModelForCausalLM.from_config(
        LlamaConfig(hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
    )
    attach(wider, Lora(rank=4, alpha=8.0, rank_stabilised=True), 0).save_pretrained(bench.folder / "wider")
    with pytest.raises(UserError, match=r"model.layers.0.*proj.weight is \[.*64.*\]") as other:
        bench.engine().use(bench.folder / "wider")
    assert [p.code for p in other.value.problems] == ["adapter.other_base"]
    head = bench.folder / "head"
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(load("llama").model, config)
    wrapped.save_pretrained(head)
    with pytest.raises(UserError, match=r"lm_head.*engine: transformers") as unserved:
        bench.engine().use(head)
    assert [p.code for p in unserved.value.problems] == ["adapter.not_served"]
    empty = bench.folder / "empty"
    empty.mkdir()
    with pytest.raises(UserError) as missing:
        bench.engine().use(empty)
    assert [(p.code, p.place) for p in missing.value.problems] == [("adapter.no_config", f"adapter {empty}")]


def test_a_process_that_dies_is_restarted_for_the_missing_requests(
    bench: Bench, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    requests = requests_of(prompts, 3)
    end = frozenset(range(0, 500, 9))  # so that answers end at different steps
    whole = dict(bench.engine(ends=end).stream(requests, WARM))
    bench.faults(kill_at_step=6, faulty_starts=2)
    engine = bench.engine(ends=end)
    completions = list(engine.stream(requests, WARM))
    assert dict(completions) == whole and len(completions) == len(requests)
    assert engine.facts()["restarts"] == 1
    done_early = sum(len(c.tokens) < 5 and c.finish_reason == "stop" for c in whole.values())
    assert 0 < done_early < len(requests)
    assert f"the missing {len(requests) - done_early} of {len(requests)} requests" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kill_at_step": 3}, "killed by SIGKILL"),
        ({"raise_at_step": 3}, "illegal memory access"),
        ({"die_at_start": True}, "killed by SIGKILL"),
    ],
)
def test_a_process_that_dies_twice_is_a_failure_with_its_last_lines(
    bench: Bench, prompts: list[Prompt], fault: dict[str, Any], cause: str
) -> None:
    bench.faults(**fault)
    engine = bench.engine()
    with pytest.raises(EngineFailed, match=cause) as failure:
        sample(engine, prompts, WARM)
    assert "the engine starts" in str(failure.value)
    assert len(bench.starts) == 2 and engine.pid is None
    bench.faults()
    assert len(sample(engine, prompts, WARM)) == len(prompts)  # and the engine can be used again


def test_a_start_that_vllm_refuses_is_a_user_error_and_not_retried(bench: Bench, prompts: list[Prompt]) -> None:
    bench.faults(refuse="No available memory for the cache blocks.")
    with pytest.raises(UserError, match=r"No available memory for the cache blocks.*gpu_memory") as refusal:
        sample(bench.engine(), prompts, WARM)
    assert [p.code for p in refusal.value.problems] == ["engine.start"]
    assert len(bench.starts) == 1


def test_without_vllm_the_error_shows_the_install_command(bench: Bench, prompts: list[Prompt]) -> None:
    bench.faults(missing=True)
    with pytest.raises(UserError, match=r'pip install "flatprobe\[vllm\]".*python') as missing:
        sample(bench.engine(), prompts, WARM)
    with pytest.raises(UserError, match="/nowhere/python") as no_python:
        sample(bench.engine(VllmMachine(python="/nowhere/python")), prompts, WARM)
    for refusal in (missing, no_python):
        assert [p.code for p in refusal.value.problems] == ["engine.not_installed"]


def test_another_interpreter_does_not_see_our_packages(bench: Bench, prompts: list[Prompt]) -> None:
    """A script with its own search path stands for the interpreter of another environment."""
    script = bench.folder / "python"
    script.write_text(f'#!/bin/sh\ntest -z "$PYTHONPATH" || exit 9\nPYTHONPATH={DOUBLES} exec {sys.executable} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert len(sample(bench.engine(VllmMachine(python=str(script))), prompts, WARM)) == len(prompts)


def test_closing_a_stream_early_ends_the_process_and_the_next_call_starts_a_new_one(
    bench: Bench, prompts: list[Prompt]
) -> None:
    engine = bench.engine()
    stream = engine.stream(requests_of(prompts, 2), WARM)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert engine.pid is None
    assert len(sample(engine, prompts, WARM)) == len(prompts)
    assert len(bench.starts) == 2
