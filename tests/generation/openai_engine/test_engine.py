"""The engine for a running server, with a small server in the test."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai_double import Double, serving
from vllm_bench import requests_of

from flatprobe.errors import UserError
from flatprobe.generation.engine import SamplingSettings, sample
from flatprobe.generation.openai_engine import engine as openai_engine
from flatprobe.generation.openai_engine import server as openai_server
from flatprobe.generation.openai_engine.engine import OpenaiEngine
from flatprobe.machine.schema import OpenaiMachine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.recipe_schema import Lora
from flatprobe.training.lora import attach

pytest.importorskip("openai")

WARM = SamplingSettings(max_new_tokens=12, temperature=0.7, top_p=0.9, seed="warm")


@pytest.fixture
def served(tokenizer: Any) -> Iterator[tuple[Double, str]]:
    """A double and its address."""
    double = Double(tokenizer)
    with serving(double) as address:
        yield double, address


@pytest.fixture
def engine(
    served: tuple[Double, str],
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Callable[[str], Path],
    load: Callable[[str], Loaded],
) -> Callable[..., OpenaiEngine]:
    monkeypatch.setattr(openai_engine, "RETRIES", 1)
    loaded = load("llama")

    def make(**options: Any) -> OpenaiEngine:
        given = {"base_url": served[1], "model": "tiny", "concurrency": 4} | options
        conversations = loaded.conversations
        ends = frozenset([conversations.turn_end])
        return OpenaiEngine(model_folder("llama"), conversations, ends, OpenaiMachine(**given))

    return make


@contextmanager
def refused(code: str, words: str) -> Iterator[None]:
    """Assert a refusal with this code and these words."""
    with pytest.raises(UserError, match=words) as refusal:
        yield
    assert [problem.code for problem in refusal.value.problems] == [code]


def test_every_request_sends_token_ids_and_its_own_seed_and_is_answered_once(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt], load: Any
) -> None:
    double, _ = served
    requests = requests_of(prompts, 3)
    completions = dict(engine().stream(requests, WARM))
    assert sorted(completions) == list(range(len(requests)))
    assert len({c.tokens for c in completions.values()}) == len(requests)
    assert completions == {14 - i: c for i, c in dict(engine().stream(requests[::-1], WARM)).items()}
    conversations = load("llama").conversations
    assert all(c.text == conversations.decode(c.tokens) and c.finish_reason == "length" for c in completions.values())
    assert {tuple(body["prompt"]) for body in double.bodies} == {
        tuple(conversations.encode_prompt(prompt)) for prompt in prompts
    }
    for body in double.bodies:
        neutral = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0}
        assert (neutral | {"temperature": 0.7, "top_p": 0.9, "max_tokens": 12}).items() <= body.items()
        assert 0 <= body["seed"] < 2**31


def test_no_more_requests_are_open_than_configured(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt]
) -> None:
    double, _ = served
    double.seconds = 0.05
    list(engine(concurrency=3).stream(requests_of(prompts, 4), WARM))
    assert double.busiest == 3


def test_answers_are_cut_before_the_end_token_and_after_a_text_to_stop_at(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt], load: Any
) -> None:
    double, _ = served
    double.finish_reason = "stop"
    whole = [c for (c,) in sample(engine(), prompts, WARM)]
    assert {c.finish_reason for c in whole} == {"stop"} and {len(c.tokens) for c in whole} == {5}
    first = load("llama").conversations.decode(whole[0].tokens[:2])
    cut = [c for (c,) in sample(engine(), prompts, replace(WARM, stop_at=first.upper()))]
    assert cut[0].finish_reason == "marker" and cut[0].tokens == whole[0].tokens[: len(cut[0].tokens)]
    assert 1 <= len(cut[0].tokens) <= 2


def test_without_token_ids_the_text_is_encoded_and_counted(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt], load: Any
) -> None:
    served[0].returns_ids = False
    made = engine()
    completions = [c for (c,) in sample(made, prompts, WARM)]
    assert made.facts()["reencoded"] == len(prompts)
    conversations = load("llama").conversations
    assert all(c.tokens == tuple(conversations.encode(c.text)) for c in completions)


def test_a_prompt_can_be_sent_as_text_if_the_server_reads_the_same_tokens(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt], load: Any
) -> None:
    double, _ = served
    as_text = sample(engine(prompt="text"), prompts, WARM)
    assert as_text == sample(engine(), prompts, WARM)
    assert double.bodies[0]["prompt"] in {load("llama").conversations.render(p.system, p.question) for p in prompts}
    double.adds_a_token = True
    for prompt, remedy in (("text", "prompt: tokens"), ("tokens", "another server")):
        with refused("server.prompt_tokens", remedy):
            sample(engine(prompt=prompt), prompts, WARM)


def test_log_probabilities_come_from_the_echo_of_the_prompt(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine]
) -> None:
    contexts, targets = [[5], [7, 8, 9]], [[10, 20], [30]]
    assert engine().log_probabilities(contexts, targets) == [[-0.1, -0.2], [-0.3]]
    served[0].echoes = False
    with refused("server.no_scores", "engine: vllm"):
        engine().log_probabilities(contexts, targets)
    with pytest.raises(ValueError, match="a context needs a token"):
        engine().log_probabilities([[]], [[1]])


def test_an_adapter_is_named_by_its_content_and_loaded_by_the_server(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt], load: Any, tmp_path: Path
) -> None:
    double, _ = served
    attach(load("llama").model, Lora(rank=4, alpha=8.0, rank_stabilised=True), 0).save_pretrained(tmp_path)
    made = engine()
    base = sample(made, prompts, WARM)
    made.use(tmp_path)
    assert sample(made, prompts, WARM) != base
    (loaded,) = double.loaded
    assert loaded["lora_path"] == str(tmp_path) and loaded["lora_name"].startswith("adapter-")
    assert double.bodies[-1]["model"] == loaded["lora_name"] == made.facts()["served"]["name"]
    double.models.append({"id": loaded["lora_name"]})
    sample(made, prompts, WARM)
    assert len(double.loaded) == 1
    double.models.pop()
    double.loads_adapters = False
    with refused("server.adapter", r"404.*--lora-modules adapter-"):
        sample(made, prompts, WARM)
    made.use(None)
    assert sample(made, prompts, WARM) == base


def test_a_server_with_another_checkpoint_or_model_is_refused(
    served: tuple[Double, str],
    engine: Callable[..., OpenaiEngine],
    prompts: list[Prompt],
    model_folder: Callable[[str], Path],
) -> None:
    double, _ = served
    double.models = [{"id": "tiny", "root": str(model_folder("llama"))}]
    made = engine()
    sample(made, prompts, WARM)
    assert made.facts()["served"]["folder_compared"] is True
    double.models = [{"id": "tiny", "root": str(model_folder("qwen2"))}]
    with refused("server.other_checkpoint", r"qwen2.*llama"):
        sample(engine(), prompts, WARM)
    with refused("server.model", r"'huge'.*tiny.*`model`"):
        sample(engine(model="huge"), prompts, WARM)


def test_refusals_and_failures_of_the_server_have_a_code_and_a_remedy(
    served: tuple[Double, str],
    engine: Callable[..., OpenaiEngine],
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    double, _ = served
    for status, code, message in (
        (400, "server.status", "400.*a planted status.*prompt: text"),
        (404, "server.not_found", "/v1"),
        (403, "server.key", "403"),
        (500, "server.status", "500.*see its log"),
        (429, "server.status", "429.*see its log"),
    ):
        double.statuses = [status] * 100
        with refused(code, message):
            sample(engine(), prompts[:1], WARM)
    double.statuses = []
    double.finish_reason = "content_filter"
    with refused("server.finish_reason", "'content_filter'"):
        sample(engine(), prompts[:1], WARM)
    double.finish_reason = "length"
    double.key = "secret"
    with refused("server.key", "401.*api_key_env"):
        sample(engine(), prompts[:1], WARM)
    with pytest.raises(UserError, match="FLATPROBE_TEST_KEY") as refusal:
        engine(api_key_env="FLATPROBE_TEST_KEY")
    assert [(p.code, p.place) for p in refusal.value.problems] == [("server.no_key", "engine openai")]
    monkeypatch.setenv("FLATPROBE_TEST_KEY", "secret")
    made = engine(api_key_env="FLATPROBE_TEST_KEY")
    assert len(sample(made, prompts[:1], WARM)) == 1
    assert "secret" not in json.dumps(made.facts())


def test_a_request_that_fails_once_is_repeated(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt]
) -> None:
    double, _ = served
    expected = sample(engine(), prompts[:1], WARM)
    double.statuses = [503]
    assert sample(engine(), prompts[:1], WARM) == expected


def test_no_server_and_a_slow_server_are_different_problems(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with refused("server.unreachable", "base_url"):
        sample(engine(base_url=address), prompts[:1], WARM)
    served[0].seconds = 1.0
    with refused("server.timeout", r"0.1 s.*timeout"):
        sample(engine(timeout=0.1), prompts[:1], WARM)


def test_closing_a_stream_early_sends_no_more_requests(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt]
) -> None:
    double, _ = served
    double.seconds = 0.05
    stream = engine(concurrency=2).stream(requests_of(prompts, 10), WARM)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    sent = len(double.bodies)
    time.sleep(0.2)
    assert len(double.bodies) == sent < 10


def test_a_prompt_that_exceeds_the_context_is_refused_before_any_request(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt]
) -> None:
    with refused("context.exceeded", "512"):
        engine().stream(requests_of(prompts, 1), replace(WARM, max_new_tokens=500))
    assert not served[0].bodies


def test_a_server_with_too_short_a_context_is_refused(
    served: tuple[Double, str], engine: Callable[..., OpenaiEngine], prompts: list[Prompt]
) -> None:
    """Some servers cut a completion at the end of their context and report the limit of new tokens."""
    double, _ = served
    double.models = [{"id": "tiny", "max_model_len": 40}]
    with refused("server.context", "40 tokens.* 58"):
        sample(engine(), prompts, WARM)
    assert not double.bodies
    double.models, double.room = [{"id": "tiny"}], 7
    with refused("server.context", "7 of 12 tokens"):
        sample(engine(), prompts, WARM)


def test_without_the_client_the_error_shows_the_install_command(
    engine: Callable[..., OpenaiEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_server, "find_spec", lambda name: None)
    with refused("engine.not_installed", r'pip install "flatprobe\[openai\]"'):
        engine()
