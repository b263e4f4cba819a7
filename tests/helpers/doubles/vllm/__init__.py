"""A double of vLLM's engine: one token per request and step, drawn from seed, prompt and adapter.

FLATPROBE_TEST_FAULTS holds the planted faults as JSON. Its `starts` names a file that gets one line per start: the
engine's arguments.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.sampling_params import SamplingParams

__version__ = "0.double"
FAULTS = json.loads(os.environ.get("FLATPROBE_TEST_FAULTS", "{}"))
VOCABULARY = 500
if FAULTS.get("missing"):
    raise ImportError("no kernels in this double")


def EngineArgs(**arguments: Any) -> dict[str, Any]:
    return arguments


@dataclass
class Running:
    request: str
    prompt: list[int]
    params: SamplingParams
    stream: random.Random
    produced: list[int] = field(default_factory=list)


class LLMEngine:
    def __init__(self, arguments: dict[str, Any]) -> None:
        starts = Path(FAULTS["starts"])
        earlier = starts.read_text().splitlines() if starts.exists() else []
        environment = {name: os.environ.get(name) for name in ("VLLM_BATCH_INVARIANT", "PYTHONPATH")}
        starts.write_text("\n".join([*earlier, json.dumps(arguments | environment)]))
        self.faulty = len(earlier) < FAULTS.get("faulty_starts", 1000)
        sys.stdout.write("a library that prints on standard output\n")
        os.system("echo and native code, too")
        sys.stderr.write("the engine starts\n")
        if self.faulty and "refuse" in FAULTS:
            raise ValueError(FAULTS["refuse"])
        if self.faulty and FAULTS.get("die_at_start"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.arguments, self.steps = arguments, 0
        self.running: dict[str, Running] = {}
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=10, block_size=16))
        self.engine_core = SimpleNamespace(shutdown=lambda: sys.stderr.write("the engine is shut down\n"))

    @classmethod
    def from_engine_args(cls, arguments: dict[str, Any]) -> "LLMEngine":
        return cls(arguments)

    def add_request(self, request: str, prompt: Any, params: SamplingParams, lora_request: Any = None) -> str:
        ids = prompt["prompt_token_ids"]
        assert len(ids) + params.max_tokens <= self.arguments["max_model_len"]
        adapter = None
        if lora_request is not None:
            assert self.arguments["enable_lora"]
            adapter = (lora_request.lora_name, lora_request.lora_int_id)
        stream = random.Random(repr((params.seed if params.temperature else 0, ids, adapter)))
        self.running[request] = Running(request, ids, params, stream)
        return request + "-internal"

    def abort_request(self, requests: list[str]) -> None:
        sys.stderr.write(f"abort {requests}\n")
        for request in requests:
            del self.running[request]

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    def step(self) -> list[Any]:
        self.steps += 1
        time.sleep(FAULTS.get("seconds_per_step", 0))
        if self.faulty and self.steps == FAULTS.get("kill_at_step"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.faulty and self.steps == FAULTS.get("raise_at_step"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [self.advance(running) for running in list(self.running.values())]

    def advance(self, running: Running) -> Any:
        token = running.stream.randrange(VOCABULARY)
        running.produced.append(token)
        stopped = token in (running.params.stop_token_ids or ())
        finished = stopped or len(running.produced) == running.params.max_tokens
        if finished:
            del self.running[running.request]
        answer = SimpleNamespace(
            token_ids=[token], finish_reason=("stop" if stopped else "length") if finished else None
        )
        scores = None
        if running.params.prompt_logprobs is not None:
            scores = [None, *({t: SimpleNamespace(logprob=-t / 100)} for t in running.prompt[1:])]
        return SimpleNamespace(request_id=running.request, outputs=[answer], finished=finished, prompt_logprobs=scores)
