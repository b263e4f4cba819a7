"""Do completions depend on the batch size? And how much time does a kill in the middle of sampling cost?

    python benchmarks/sampling_checks.py batches             # 8, 64 and 128 rows, the demo's prompts, ten minutes
    python benchmarks/sampling_checks.py batches --prompts 32 --tokens 24     # a smaller check
    python benchmarks/sampling_checks.py kill                # killed at half, then resumed
    python benchmarks/sampling_checks.py batches --device cuda --model FOLDER --precision bfloat16 --rows 64 512

Every sampling runs in its own process, so that it has its own peak memory and can be killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatprobe import console
from flatprobe.generation import saved_completions as chunks
from flatprobe.generation.engine import CompletionRequest, request_seed
from flatprobe.generation.sample import complete
from flatprobe.generation.stopping import end_tokens
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.models.embedded import converted_folder
from flatprobe.models.load import held_checkpoint
from flatprobe.pipeline.resume import ResumeFolder, use_resume_folder
from flatprobe.planner.contracts import SampleSettings
from sampling import peak_memory
from sampling_ways import Load, loads

ROWS = (8, 64, 128)
KILLED_WITH_ROWS = 128


def main() -> None:
    """Print one of the two tables; with --one, sample once and print JSON."""
    options = _options()
    options.model = options.model or converted_folder()
    if options.one is not None:
        {"batches": sample_all, "kill": sample_resumably}[options.what](options)
    else:
        {"batches": compare_batches, "kill": kill_and_resume}[options.what](options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("batches", "kill"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, help="folder of a model; SmolLM2-135M-Instruct by default")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, nargs="+", help="rows decoded together")
    parser.add_argument("--load", choices=("demo", "forced"), default="demo")
    parser.add_argument("--prompts", type=int, default=10**6, help="number of the load's prompts, evenly spread")
    parser.add_argument(
        "--tokens", type=int, default=10**6, help="most tokens of a completion, if below the load's limit"
    )
    parser.add_argument("--one", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _start(options: argparse.Namespace, rows: int, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, options.what, "--one", str(folder), "--rows", str(rows)]
    for name in ("model", "device", "precision", "load", "prompts", "tokens"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _load(options: argparse.Namespace) -> Load:
    load = loads(quick=False)[options.load]
    every = max(1, len(load.prompts) // options.prompts)
    prompts = load.prompts[::every][: options.prompts]
    return replace(load, prompts=prompts, max_new_tokens=min(options.tokens, load.max_new_tokens))


def _engine(options: argparse.Namespace, load: Load) -> TransformersEngine:
    loaded = held_checkpoint(options.model, options.precision, torch.device(options.device))
    engine = TransformersEngine(loaded, options.rows[0])
    if load.forced:
        engine.ends = frozenset()
    return engine


# --- completions at several numbers of rows


def sample_all(options: argparse.Namespace) -> None:
    """All completions of the load at once, as one line of JSON."""
    load = _load(options)
    engine = _engine(options, load)
    clock = time.perf_counter()
    completions = dict(engine.stream(load.requests, load.settings))
    seconds = time.perf_counter() - clock
    tokens = [completions[index].tokens for index in range(len(completions))]
    memory = peak_memory(options.device, "flatprobe")
    sys.stdout.write(json.dumps({"seconds": seconds, "memory": memory, "tokens": tokens}) + "\n")


def compare_batches(options: argparse.Namespace) -> None:
    """A table with a line per number of rows; all are compared with the first."""
    results = []
    for rows in options.rows or ROWS:
        output, _ = _start(options, rows, Path()).communicate()
        results.append((rows, json.loads(output.splitlines()[-1])))
    first = results[0][1]["tokens"]
    borders = _Borders(options)
    lines = []
    for rows, result in results:
        tokens = result["tokens"]
        same = sum(a == b for a, b in zip(tokens, first, strict=True))
        common = sum(_common(a, b) for a, b in zip(tokens, first, strict=True))
        lines.append(
            {
                "rows": str(rows),
                f"completions as with {results[0][0]}": f"{same} of {len(first)}",
                "tokens before they diverge": f"{common} of {sum(map(len, first))}",
                "farthest from a border": f"{borders.farthest(first, tokens):.1e}",
                "tokens/s": f"{sum(map(len, tokens)) / result['seconds']:.0f}",
                "peak MiB": f"{result['memory']:.0f}",
            }
        )
    columns = list(lines[0])
    title = f"{options.load}, {options.precision}, {options.device}"
    console.table(columns, [tuple(line.values()) for line in lines], title=title, right=columns)


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class _Borders:
    """Distances between random numbers at which completions diverge and the borders of the drawn tokens' intervals.

    Rounding moves a border by about the rounding error. A larger distance means a fault.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.load = _load(options)
        self.loaded = held_checkpoint(options.model, options.precision, torch.device(options.device))

    def farthest(self, some: list[list[int]], others: list[list[int]]) -> float:
        """The largest of these distances, in probability; 0 if no completions diverge."""
        diverging = [index for index, (a, b) in enumerate(zip(some, others, strict=True)) if a != b]
        return max((self._distance(index, some[index], others[index]) for index in diverging), default=0.0)

    @torch.inference_mode()
    def _distance(self, index: int, some: list[int], other: list[int]) -> float:
        place = _common(some, other)
        request, settings = self.load.requests[index], self.load.settings
        seed = request_seed(settings.seed, request.prompt, request.sample_index)
        number = np.random.default_rng(seed).random(settings.max_new_tokens, dtype=np.float32)[place]
        ids = [*self.loaded.conversations.encode_prompt(request.prompt), *some[:place]]
        logits = self.loaded.model(torch.tensor([ids], device=self.loaded.device), logits_to_keep=1).logits[0, -1]
        above = logits.double().softmax(-1).cumsum(-1).cpu().numpy()
        ends = sorted(end_tokens(self.loaded.conversations, self.loaded.model.generation_config.eos_token_id))
        drawn = [tokens[place : place + 1] or ends for tokens in (some, other)]  # one of them may have ended here
        return max(min(_outside(number, above, token) for token in tokens) for tokens in drawn)


def _outside(number: float, above: Any, token: int) -> float:
    below = above[token - 1] if token else 0.0
    return float(max(0.0, below - number, number - above[token]))


# --- a kill in the middle


@dataclass(frozen=True)
class Attempt:
    """The work of one process."""

    requested: int
    """Completions that were not on the disk."""
    finished: int
    """Completions that it finished, saved or not."""
    seconds: float
    """Of sampling, up to the kill if there was one."""


def sample_resumably(options: argparse.Namespace) -> None:
    """Sample the load like a stage; print a line of JSON at the start and one per completion."""
    load = _load(options)
    engine = _engine(options, load)
    settings = SampleSettings(
        personas=(),
        questions=(),
        samples=load.samples,
        max_new_tokens=load.max_new_tokens,
        temperature=1.0,
        top_p=1.0,
        precision=options.precision,
        seed=load.settings.seed,
        stop_at=None,
        parity_prompts=0,
    )
    stream = engine.stream

    def reported(requests: list[CompletionRequest], settings: Any) -> Any:
        sys.stdout.write(json.dumps({"requested": len(requests)}) + "\n")
        sys.stdout.flush()
        for index, completion in stream(requests, settings):
            yield index, completion
            sys.stdout.write(json.dumps({"tokens": len(completion.tokens)}) + "\n")
            sys.stdout.flush()

    engine.stream = reported  # type: ignore[method-assign,assignment]
    with use_resume_folder(ResumeFolder(options.one, "kill")):
        complete(engine, load.prompts, settings)


def _attempt(options: argparse.Namespace, folder: Path, kill_after: int | None) -> Attempt:
    rows = options.rows[0] if options.rows else KILLED_WITH_ROWS
    finished, requested, clock = 0, 0, time.perf_counter()
    with _start(options, rows, folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "requested" in (report := json.loads(line)):
                requested, clock = report["requested"], time.perf_counter()
            else:
                finished += 1
                if finished == kill_after:
                    os.kill(process.pid, signal.SIGKILL)
                    break
    return Attempt(requested, finished, time.perf_counter() - clock)


def kill_and_resume(options: argparse.Namespace) -> None:
    """Sample the load in one go; then again, killed when half is finished, then resumed to the end."""
    with tempfile.TemporaryDirectory() as folder:
        whole = _attempt(options, Path(folder) / "whole", None)
        killed = _attempt(options, Path(folder) / "killed", whole.finished // 2)
        resumed = _attempt(options, Path(folder) / "killed", None)
        texts = [_texts(Path(folder) / name) for name in ("whole", "killed")]
    stored = whole.requested - resumed.requested
    same = sum(texts[1][key] == text for key, text in texts[0].items())
    console.table(
        ("", "completions requested", "finished", "seconds"),
        [
            ("in one go", str(whole.requested), str(whole.finished), f"{whole.seconds:.1f}"),
            ("killed at half", str(killed.requested), str(killed.finished), f"{killed.seconds:.1f}"),
            ("resumed", str(resumed.requested), str(resumed.finished), f"{resumed.seconds:.1f}"),
        ],
        title=f"{options.load}: a chunk is written every {chunks.ROWS} completions or {chunks.SECONDS:.0f} s",
        right=("completions requested", "finished", "seconds"),
    )
    cost = killed.seconds + resumed.seconds - whole.seconds
    running = options.rows[0] if options.rows else KILLED_WITH_ROWS
    console.say(
        f"{stored} of {killed.finished} finished completions were on the disk. {killed.finished - stored}, and at most "
        f"{running} unfinished ones, were sampled again. The kill cost {cost:.1f} s ({cost / whole.seconds:.0%}). "
        f"{same} of {len(texts[0])} completions are the same as in one go."
    )


def _texts(folder: Path) -> dict[chunks.Key, str]:
    return {key: row.text for key, row in chunks.CompletionStore(folder).rows.items()}


if __name__ == "__main__":
    main()
