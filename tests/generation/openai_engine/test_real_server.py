"""The engine for a running server, with vLLM's server; runs only with `-m vllm`.

FLATPROBE_VLLM_PYTHON names an interpreter with vLLM; a GPU is not needed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plain import PROMPTS, WARM, Trial, check_parity, load_with_adapters, save_model

from flatprobe.errors import UserError
from flatprobe.generation.engine import CompletionRequest, sample
from flatprobe.generation.openai_engine.engine import OpenaiEngine
from flatprobe.generation.stopping import end_tokens, eos_of_files
from flatprobe.machine.schema import OpenaiMachine

PYTHON = os.environ.get("FLATPROBE_VLLM_PYTHON")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(PYTHON is None, reason="FLATPROBE_VLLM_PYTHON names no interpreter that has vLLM"),
    pytest.mark.timeout(900),
]
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PATIENCE = 300  # seconds for the server to start


@pytest.fixture(scope="module")
def address(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local vLLM server with the model, started as a user would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert PYTHON is not None
    command = [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "256",
        "--gpu-memory-utilization", "0.2", "--enforce-eager", "--no-enable-chunked-prefill", "--enable-lora",
        "--max-lora-rank", "8", "--lora-target-modules", *MODULES,
    ]  # fmt: skip
    environment = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
    environment.pop("PYTHONPATH", None)
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(PATIENCE):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, "the server ended"
            time.sleep(1)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tokenizer, tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def trial(address: str, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    loaded, adapters = load_with_adapters(checkpoint, tmp_path_factory.mktemp("adapters"))
    options = OpenaiMachine(base_url=address, model="tiny", concurrency=8)
    ends = end_tokens(loaded.conversations, eos_of_files(checkpoint))
    return Trial(OpenaiEngine(checkpoint, loaded.conversations, ends, options), loaded, adapters)


def test_base_and_adapters_agree_with_transformers_and_peft(trial: Trial) -> None:
    """The server loads each adapter at its first use."""
    check_parity(trial, 1e-3)
    facts = trial.engine.facts()
    assert facts["reencoded"] == 0 and facts["served"]["folder_compared"] is True


def test_a_seed_gives_the_same_answer_in_any_order(trial: Trial) -> None:
    trial.engine.use(None)
    requests = [CompletionRequest(prompt, k) for prompt in PROMPTS for k in range(4)]
    forwards = dict(trial.engine.stream(requests, WARM))
    backwards = dict(trial.engine.stream(requests[::-1], WARM))
    assert len({c.tokens for c in forwards.values()}) == 16
    assert [backwards[15 - index] for index in range(16)] == [forwards[index] for index in range(16)]


def test_prompts_as_text_are_read_as_the_same_tokens(trial: Trial) -> None:
    engine = trial.engine
    assert isinstance(engine, OpenaiEngine)
    options = engine.options.model_copy(update={"prompt": "text"})
    as_text = OpenaiEngine(engine.checkpoint, engine.conversations, engine.ends, options)
    assert sample(as_text, PROMPTS, WARM) == sample(engine, PROMPTS, WARM)


def test_another_model_checkpoint_or_context_is_refused(trial: Trial, tmp_path: Path) -> None:
    engine = trial.engine
    assert isinstance(engine, OpenaiEngine)
    options = engine.options.model_copy(update={"model": "other"})
    other = OpenaiEngine(engine.checkpoint, engine.conversations, engine.ends, options)
    refusals = []
    with pytest.raises(UserError, match="'other'.*tiny") as refusal:
        sample(other, PROMPTS, WARM)
    refusals += refusal.value.problems
    elsewhere = OpenaiEngine(tmp_path, engine.conversations, engine.ends, engine.options)
    (tmp_path / "config.json").write_text((engine.checkpoint / "config.json").read_text())
    with pytest.raises(UserError) as refusal:
        sample(elsewhere, PROMPTS, WARM)
    refusals += refusal.value.problems
    with pytest.raises(UserError, match="256 tokens") as refusal:
        sample(engine, PROMPTS, replace(WARM, max_new_tokens=250))
    refusals += refusal.value.problems
    codes = ["server.model", "server.other_checkpoint", "server.context"]
    assert [problem.code for problem in refusals] == codes
