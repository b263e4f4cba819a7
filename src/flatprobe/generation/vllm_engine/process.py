"""A process that holds one vLLM engine: commands on standard input, replies on standard output, one JSON line each.

Run it by its path with any interpreter that has vLLM: it imports only the standard library and vLLM, so flatprobe need
not be installed there. Prompts and completions are token ids, so it loads no tokenizer. vLLM's output goes to standard
error. When standard input closes, the process kills its whole group, so it never outlives its parent.

Commands, the first of which is `start`:

    {"command": "start", "arguments": {…}}                        arguments of vLLM's EngineArgs
    {"command": "sample", "prompts": [[ids], …], "requests": [[prompt, seed], …], "max_new_tokens": n,
     "temperature": t, "top_p": p, "ends": [ids], "adapter": {"name": …, "id": …, "path": …} or null, "report_every": n}
    {"command": "cut", "requests": [index, …]}                    while sampling: abort these
    {"command": "log_probabilities", "rows": [[[ids], first], …], "adapter": …}
    {"command": "stop"}

Replies: `started`, `completion`, `partial`, `row`, `done`, `failed`, each under "reply".
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any

Reply = Any  # a function that sends one JSON object


def take_over_output() -> Reply:
    """Reserve standard output for replies; other writes to it, also from native code, go to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(kind: str, **content: Any) -> None:
        channel.write(json.dumps({"reply": kind, **content}) + "\n")
        channel.flush()

    return reply


def read_commands(commands: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Queue incoming commands; at the end of the input, kill this process's group."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os.killpg(os.getpgrp(), signal.SIGKILL)


def start(arguments: dict[str, Any], reply: Reply) -> Any:
    """Load the model; returns the engine."""
    began = time.monotonic()
    import torch
    import vllm
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # A chunked prefill rewinds the seeded generator after each chunk, which CPU generators cannot do.
        arguments = {**arguments, "enable_chunked_prefill": False}
    engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments))
    cache = engine.vllm_config.cache_config
    reply(
        "started",
        pid=os.getpid(),
        seconds=round(time.monotonic() - began, 2),
        vllm=vllm.__version__,
        torch=torch.__version__,
        device=current_platform.get_device_name(),
        cache_tokens=(cache.num_gpu_blocks or 0) * (cache.block_size or 0),
    )
    return engine


def adapter_request(adapter: dict[str, Any] | None) -> Any:
    """vLLM's handle of an adapter. Its prefix cache identifies adapters by name; names are hashes of their content."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter["name"], adapter["id"], adapter["path"])


def sample(engine: Any, command: dict[str, Any], commands: queue.SimpleQueue[dict[str, Any]], reply: Reply) -> None:
    """Sample all requests together; send each completion as it finishes, without its end token."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    adapter = adapter_request(command["adapter"])
    ends = frozenset(command["ends"])
    every = command["report_every"]
    for index, (prompt, seed) in enumerate(command["requests"]):
        parameters = SamplingParams(
            temperature=command["temperature"],
            top_p=command["top_p"],
            top_k=-1,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            seed=seed,
            max_tokens=command["max_new_tokens"],
            stop_token_ids=sorted(ends),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        ids = command["prompts"][prompt]
        engine.add_request(str(index), {"prompt_token_ids": ids}, parameters, lora_request=adapter)
    produced: dict[str, list[int]] = {str(index): [] for index in range(len(command["requests"]))}
    reported = dict.fromkeys(produced, 0)
    while produced:
        cut(engine, commands, produced)
        for output in engine.step():
            name = output.request_id
            tokens = produced.get(name)
            if tokens is None:  # cut in the meantime
                continue
            (answer,) = output.outputs
            tokens.extend(answer.token_ids)
            if output.finished:
                finish(name, produced.pop(name), answer.finish_reason, ends, reply)
            elif every and len(tokens) - reported[name] >= every:
                reply("partial", index=int(name), tokens=tokens[reported[name] :])
                reported[name] = len(tokens)
    reply("done")


def finish(name: str, tokens: list[int], reason: str | None, ends: frozenset[int], reply: Reply) -> None:
    """Send a completion."""
    if reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended request {name} with {reason!r}")
    if reason == "stop" and tokens and tokens[-1] in ends:
        tokens = tokens[:-1]
    reply("completion", index=int(name), tokens=tokens, finish_reason=reason)


def cut(engine: Any, commands: queue.SimpleQueue[dict[str, Any]], produced: dict[str, list[int]]) -> None:
    """Abort the requests named by commands since the last step."""
    while not commands.empty():
        command = commands.get()
        if command["command"] != "cut":
            raise ValueError(f"{command['command']} while sampling")
        names = [str(index) for index in command["requests"]]
        engine.abort_request([name for name in names if produced.pop(name, None) is not None])


def log_probabilities(engine: Any, command: dict[str, Any], reply: Reply) -> None:
    """Send log P of each token from `first` on given those before it, in nats, at temperature 1."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    adapter = adapter_request(command["adapter"])
    for index, (tokens, _) in enumerate(command["rows"]):
        parameters = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        engine.add_request(str(index), {"prompt_token_ids": tokens}, parameters, lora_request=adapter)
    while engine.has_unfinished_requests():
        for output in engine.step():
            row = int(output.request_id)
            tokens, first = command["rows"][row]
            values = output.prompt_logprobs
            scores = [values[index][tokens[index]].logprob for index in range(first, len(tokens))]
            reply("row", index=row, values=scores)
    reply("done")


def end_on_errors(reply: Reply) -> None:
    """Report an uncaught error and end the process with all threads of vLLM."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        message = "".join(traceback.format_exception_only(error)).strip()
        reply("failed", missing=isinstance(error, ImportError), message=message)
        os._exit(1)

    sys.excepthook = report


def main() -> None:
    """Run commands until `stop`."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    reply = take_over_output()
    end_on_errors(reply)
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    engine: Any = None
    while (command := commands.get())["command"] != "stop":
        if command["command"] == "start":
            engine = start(command["arguments"], reply)
        elif command["command"] == "sample":
            sample(engine, command, commands, reply)
        elif command["command"] == "log_probabilities":
            log_probabilities(engine, command, reply)
        elif command["command"] != "cut":  # a late cut is no error
            raise ValueError(f"unknown command {command['command']!r}")
    if engine is not None:
        engine.engine_core.shutdown()
    sys.stderr.flush()
    os._exit(0)  # skips remaining threads and finalizers


if __name__ == "__main__":
    main()
