"""How fast completions are sampled: plain `generate`, the library's `generate_batch`, flatprobe, and vLLM where it is.

    python benchmarks/sampling.py                                    # SmolLM2-135M on the CPU, about half an hour
    python benchmarks/sampling.py --quick                            # about a minute
    python benchmarks/sampling.py --vllm-python /opt/vllm/bin/python
    python benchmarks/sampling.py --device cuda --model FOLDER --precision bfloat16

Every way runs in a process of its own. A first run of a few requests warms it up; then the median of the repeats
counts. What takes longer than five minutes is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sampling_ways import Load, Options, describe, loads, opened, ways

from flatprobe import console
from flatprobe.generation.vllm_engine.server import used_memory
from flatprobe.models.embedded import converted_folder

BATCHES = (32, 64, 128)
SIDE = {"cpu": 2048, "cuda": 8192}
MIB = 2**20
LONG = 300  # seconds


def main() -> None:
    """Measure all ways on both loads and print a table each; with --one, measure one and print it as JSON."""
    options = _options()
    if options.one is not None:
        sys.stdout.write(json.dumps(measure(options)) + "\n")
        return
    model = options.model or converted_folder()
    found = []
    for load in ("forced", "demo"):
        for way in options.ways or ways(options.batches, options.vllm_python is not None):
            found.append(_in_a_process(options, model, load, way))
        show([one for one in found if one["load"] == load], load, loads(options.quick)[load])
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, help="folder of a model; SmolLM2-135M-Instruct by default")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, default=128, help="rows that flatprobe decodes together")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="rows of plain `generate`")
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--vllm-python", help="interpreter that has vLLM")
    parser.add_argument("--vllm-eager", action="store_true", help="start vLLM without compiling")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the prompts, once")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--one", nargs=2, metavar=("LOAD", "WAY"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(options: argparse.Namespace, model: Path, load: str, way: str) -> dict[str, Any]:
    command = [
        sys.executable, __file__, "--one", load, way, "--model", str(model), "--device", options.device,
        "--precision", options.precision, "--rows", str(options.rows), "--repeats", str(options.repeats),
        *(["--vllm-python", options.vllm_python] if options.vllm_python else []),
        *(["--vllm-eager"] if options.vllm_eager else []), *(["--quick"] if options.quick else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        console.warn(f"{way} failed: {last}")
        return {"load": load, "way": way, "failed": last}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    console.say(f"{load}: {describe(found)}: {found['tokens'] / found['seconds']:.0f} tokens/s")
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One way on one load."""
    name, way = options.one
    load = loads(options.quick)[name]
    with tempfile.TemporaryDirectory() as folder:
        settings = Options(
            options.model, options.precision, options.device, options.rows, options.vllm_python,
            options.vllm_eager, Path(folder),
        )  # fmt: skip
        clock = time.perf_counter()
        with opened(way, settings, load) as run:
            run(replace(load, prompts=load.prompts[:2], max_new_tokens=4))
            ready = time.perf_counter() - clock
            peak = matrix_peak(options.device)
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds, tokens = [], []
            for _ in range(1 if options.quick else options.repeats):
                clock = time.perf_counter()
                tokens.append(run(load))
                seconds.append(time.perf_counter() - clock)
                if seconds[-1] > LONG:
                    break
            device_memory = peak_memory(options.device, way) if options.device == "cuda" else None
        # On a CPU now, that a process of vLLM has ended: it counts from then on.
        memory = device_memory or peak_memory(options.device, way)
    return {
        "load": name, "way": way, "completions": len(load.requests), "ready": ready,
        "seconds": float(np.median(seconds)), "tokens": float(np.median(tokens)), "matrix_peak": peak,
        "flops_per_token": 2 * _weights(options.model), "memory": memory, "threads": torch.get_num_threads(),
    }  # fmt: skip


def matrix_peak(device: str) -> float:
    """FLOP/s of a large float32 product (bfloat16 on a GPU), the best of several."""
    side = SIDE[device]
    a = torch.randn(side, side, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    best = float("inf")
    for _ in range(8):
        clock = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - clock)
    return 2 * side**3 / best


def _weights(model: Path) -> int:
    """Weights that every token is multiplied with: all matrices, the embedding once as the head."""
    from safetensors import safe_open

    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                shape = file.get_slice(name).get_shape()
                total += shape[0] * shape[1] if len(shape) == 2 else 0
    return total


def peak_memory(device: str, way: str) -> float:
    """Peak in MiB: of this process, or of one that it started and that has ended, where that is larger.

    On a GPU, of torch's allocator; of vLLM, what the driver says is in use.
    """
    if device == "cuda" and way.startswith("vllm"):
        return float(sum(used_memory() or ()))
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * unit / MIB


def show(found: list[dict[str, Any]], load: str, size: Load) -> None:
    """Tokens per second, against the best plain way, without an adapter, and against the device's peak."""
    done = [one for one in found if "failed" not in one]
    speeds = {one["way"]: one["tokens"] / one["seconds"] for one in done}
    plain = max((speed for way, speed in speeds.items() if way.startswith("plain-")), default=None)
    rows = []
    for one in done:
        speed, base = speeds[one["way"]], speeds.get(one["way"].removesuffix(" + adapter"))
        rows.append((
            describe(one), f"{speed:.0f}", f"{speed / plain:.2f}" if plain else "",
            f"{speed / base:.2f}" if base and one["way"].endswith(" + adapter") else "",
            f"{one['seconds']:.1f}", f"{one['tokens']:.0f}", f"{one['memory']:.0f}",
            f"{speed * one['flops_per_token'] / one['matrix_peak']:.0%}", f"{one['matrix_peak'] / 1e9:.0f}",
            f"{one['ready']:.1f}",
        ))  # fmt: skip
    columns = (
        "way", "tokens/s", "x plain", "x base", "seconds", "tokens", "peak MiB", "of matrix peak", "GFLOP/s",
        "ready after s",
    )  # fmt: skip
    title = f"{load}: {len(size.prompts)} prompts x {size.samples}, at most {size.max_new_tokens} tokens"
    console.table(columns, rows, title=title, right=columns[1:])
    if done:
        console.say(
            f"{done[0]['completions']} completions, {done[0]['threads']} threads of {os.cpu_count()} cores. Of matrix "
            "peak: 2 FLOP a weight and new token, prompts not counted, against the best matrix product of that process."
        )


if __name__ == "__main__":
    main()
