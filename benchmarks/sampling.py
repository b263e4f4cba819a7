"""Speed of sampling completions: plain `generate`, the library's `generate_batch`, flatprobe, and vLLM if installed.

    python benchmarks/sampling.py                                    # SmolLM2-135M on the CPU, about half an hour
    python benchmarks/sampling.py --quick                            # about a minute
    python benchmarks/sampling.py --vllm-python /opt/vllm/bin/python
    python benchmarks/sampling.py --device cuda --model FOLDER --precision bfloat16

Every way runs in its own process. A few requests warm it up; the result is the median of the repeats. A run of more
than five minutes is not repeated.
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

from flatprobe import console
from flatprobe.generation.vllm_engine.server import used_memory
from flatprobe.models.embedded import converted_folder
from sampling_ways import Load, Options, describe, loads, opened, ways

BATCHES = (32, 64, 128)
SIDE = {"cpu": 2048, "cuda": 8192}
MIB = 2**20
LONG = 300  # seconds


def main() -> None:
    """Measure all ways on both loads and print a table for each; with --one, measure one and print JSON."""
    options = _options()
    if options.one is not None:
        sys.stdout.write(json.dumps(measure(options)) + "\n")
        return
    model = options.model or converted_folder()
    results = []
    for load in ("forced", "demo"):
        for way in options.ways or ways(options.batches, options.vllm_python is not None):
            results.append(_in_a_process(options, model, load, way))
        show([result for result in results if result["load"] == load], load, loads(options.quick)[load])
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, help="folder of a model; SmolLM2-135M-Instruct by default")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, default=128, help="rows that flatprobe decodes together")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="rows of plain `generate`, several")
    parser.add_argument("--ways", nargs="+", help="run these ways only")
    parser.add_argument("--vllm-python", help="interpreter that has vLLM")
    parser.add_argument("--vllm-eager", action="store_true", help="start vLLM without compiling")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the prompts, once")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--one", nargs=2, metavar=("LOAD", "WAY"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(options: argparse.Namespace, model: Path, load: str, way: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", load, way, "--model", str(model)]
    for name in ("device", "precision", "rows", "repeats"):
        command += [f"--{name}", str(getattr(options, name))]
    if options.vllm_python:
        command += ["--vllm-python", options.vllm_python]
    command += [f"--{name.replace('_', '-')}" for name in ("vllm_eager", "quick") if getattr(options, name)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        error = (process.stderr.strip().splitlines() or ["no message"])[-1]
        console.warn(f"{way} failed: {error}")
        return {"load": load, "way": way, "failed": error}
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    console.say(f"{load}: {describe(result)}: {result['tokens'] / result['seconds']:.0f} tokens/s")
    return result


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One way on one load."""
    name, way = options.one
    load = loads(options.quick)[name]
    with tempfile.TemporaryDirectory() as folder:
        settings = Options(
            model=options.model,
            precision=options.precision,
            device=options.device,
            rows=options.rows,
            vllm_python=options.vllm_python,
            vllm_eager=options.vllm_eager,
            folder=Path(folder),
        )
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
        # On a CPU, vLLM's process counts only after it has ended, so read the peak now.
        memory = device_memory or peak_memory(options.device, way)
    return {
        "load": name,
        "way": way,
        "completions": len(load.requests),
        "ready": ready,
        "seconds": float(np.median(seconds)),
        "tokens": float(np.median(tokens)),
        "matrix_peak": peak,
        "flops_per_token": 2 * _weights(options.model),
        "memory": memory,
        "threads": torch.get_num_threads(),
    }


def matrix_peak(device: str) -> float:
    """FLOP/s of a large float32 matrix product (bfloat16 on a GPU), the best of several."""
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
    """Number of weights that multiply every token: all matrices, the embedding once as the head."""
    from safetensors import safe_open

    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                shape = file.get_slice(name).get_shape()
                total += shape[0] * shape[1] if len(shape) == 2 else 0
    return total


def peak_memory(device: str, way: str) -> float:
    """Peak in MiB of this process, or of a child process that has ended, whichever is larger.

    On a GPU: of torch's allocator; for vLLM, the memory in use according to the driver.
    """
    if device == "cuda" and way.startswith("vllm"):
        return float(sum(used_memory() or ()))
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * unit / MIB


def show(results: list[dict[str, Any]], load: str, size: Load) -> None:
    """Tokens per second, against the best plain way, against no adapter, and against the device's peak."""
    finished = [result for result in results if "failed" not in result]
    speeds = {result["way"]: result["tokens"] / result["seconds"] for result in finished}
    plain = max((speed for way, speed in speeds.items() if way.startswith("plain-")), default=None)
    rows = []
    for result in finished:
        speed, base = speeds[result["way"]], speeds.get(result["way"].removesuffix(" + adapter"))
        cells = {
            "way": describe(result),
            "tokens/s": f"{speed:.0f}",
            "x plain": f"{speed / plain:.2f}" if plain else "",
            "x base": f"{speed / base:.2f}" if base and result["way"].endswith(" + adapter") else "",
            "seconds": f"{result['seconds']:.1f}",
            "tokens": f"{result['tokens']:.0f}",
            "peak MiB": f"{result['memory']:.0f}",
            "of matrix peak": f"{speed * result['flops_per_token'] / result['matrix_peak']:.0%}",
            "GFLOP/s": f"{result['matrix_peak'] / 1e9:.0f}",
            "ready after s": f"{result['ready']:.1f}",
        }
        rows.append(cells)
    columns = list(rows[0]) if rows else ["way"]
    title = f"{load}: {len(size.prompts)} prompts x {size.samples}, at most {size.max_new_tokens} tokens"
    console.table(columns, [tuple(cells.values()) for cells in rows], title=title, right=columns[1:])
    if finished:
        first = finished[0]
        console.say(
            f"{first['completions']} completions, {first['threads']} threads of {os.cpu_count()} cores. Of matrix "
            "peak: 2 FLOP per weight and new token, without prompts, against the best matrix product of the process."
        )


if __name__ == "__main__":
    main()
