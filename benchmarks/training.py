"""Speed and memory of the coupling step and of TRL's `SFTTrainer`, and memory of the step's logits.

    pip install trl==1.16.0
    python benchmarks/training.py
    python benchmarks/training.py --device cuda --dtype bfloat16 --model PATH --answer-scale 12 --json times.json

Every way trains the same LoRA (the registered coupling's: rank 32, all seven linear modules, rank-stabilised) on the
same examples in the same batches. Each run has its own process; all ways run in turn, `--repeats` times; the table
shows medians. Tokens are those of the examples, also where flatprobe computes a shared prefix once. Padding does not
count, nor do the negatives' marker slots, which only the coupling has. TRL recomputes activations by default; the
table shows it with and without.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import logits_memory
from flatprobe.console import console, say
from flatprobe.models.embedded import EMBEDDED
from flatprobe.models.reference import resolve

CHILD = Path(__file__).with_name("training_ways.py")
SFT = "SFTTrainer, padded"
WAYS: dict[str, dict[str, Any]] = {
    "flatprobe, no anchor": {"kind": "flatprobe", "anchor": "none", "first_layer": 0},
    "flatprobe, anchor by cross-entropy": {"kind": "flatprobe", "anchor": "cross_entropy", "first_layer": 0},
    "flatprobe, anchor by KL": {"kind": "flatprobe", "anchor": "kl", "first_layer": 0},
    "flatprobe, no anchor, upper half": {"kind": "flatprobe", "anchor": "none", "first_layer": None},
    SFT: {"kind": "sft", "packing": False, "checkpointing": False},
    "SFTTrainer, packed": {"kind": "sft", "packing": True, "checkpointing": False},
    "SFTTrainer, padded, recomputing": {"kind": "sft", "packing": False, "checkpointing": True},
    "Trainer, all logits": {"kind": "full"},
}
GIGA = 1e9


@dataclass(frozen=True)
class Run:
    """One measurement by `training_ways.py`."""

    seconds: float
    tokens: int
    flops: float
    peak_bytes: int
    before_bytes: int
    last_loss: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def main() -> None:
    options = _options()
    runs: dict[str, list[Run]] = {way: [] for way in options.ways}
    peaks: list[float] = []
    for _ in range(options.repeats):
        peaks.append(_child(options, "matrix peak", {})["flops_per_second"])
        for way in runs:
            runs[way].append(Run(**_child(options, way, WAYS[way])))
            say(f"{way}: {runs[way][-1].tokens_per_second:.0f} tokens/s")
    peak = max(peaks)
    _show(runs, peak, options)
    logits = [] if options.no_logits else list(logits_memory.measured(options.device))
    if logits:
        logits_memory.show(logits)
    if options.json:
        content = {
            "options": {name: str(value) for name, value in vars(options).items()},
            "matrix_flops_per_second": peaks,
            "ways": {way: [vars(run) for run in of_way] for way, of_way in runs.items()},
            "logits": [vars(row) for row in logits],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="folder of a chat model, or the embedded one")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=16, help="examples per optimiser step")
    parser.add_argument("--rows", type=int, help="examples in one forward pass (default: the batch)")
    parser.add_argument("--answer-scale", type=float, default=1.0, help="factor on the demo's answer lengths")
    parser.add_argument("--dropout", type=float, default=0.05, help="on the adapter's input, as registered")
    parser.add_argument("--steps", type=int, default=4, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="one thread, timed by processor time: for a machine with other work",
    )
    parser.add_argument("--no-logits", action="store_true", help="leave out the memory of logits")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.rows = options.rows or options.batch
    options.threads = 1 if options.processor_time else options.threads
    if not Path(options.model).is_dir():
        options.model = str(resolve(options.model, None, "--model").reference.path())
    return options


def _child(options: argparse.Namespace, way: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one way in its own process: nothing is warm, and memory is its own."""
    task = {name: value for name, value in vars(options).items() if name not in ("json", "ways")}
    task |= {"way": way, **settings}
    if task.get("first_layer", 0) is None:
        task["first_layer"] = _blocks(Path(options.model)) // 2
    command = [sys.executable, str(CHILD), json.dumps(task)]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if process.returncode != 0:
        raise SystemExit(f"{way}:\n{process.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


def _blocks(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])


def _show(runs: dict[str, list[Run]], peak: float, options: argparse.Namespace) -> None:
    table = Table("way", "tokens/s", "range", f"times {SFT}", "peak GB", "before training", "GFLOP/token", "of peak")
    for cells in _cells(runs, peak):
        table.add_row(*cells)
    console().print(table)
    clock = "processor time" if options.processor_time else "wall time"
    say(
        f"{options.device}, {options.dtype}, {options.threads} threads, {clock}, batch {options.batch} in passes of "
        f"{options.rows}, {options.steps} timed steps, {options.repeats} repeats. Matrix peak: "
        f"{peak / GIGA:,.0f} GFLOP/s. FLOPs: matrix products outside attention, as executed."
    )


def _cells(runs: dict[str, list[Run]], peak: float) -> Iterator[list[str]]:
    speeds = {way: [run.tokens_per_second for run in of_way] for way, of_way in runs.items()}
    for way, of_way in runs.items():
        ratios = [speed / sft for speed, sft in zip(speeds[way], speeds.get(SFT, []), strict=False)]
        flops, seconds = sum(run.flops for run in of_way), sum(run.seconds for run in of_way)
        yield [
            way,
            f"{np.median(speeds[way]):,.0f}",
            f"{min(speeds[way]):,.0f} – {max(speeds[way]):,.0f}",
            f"{np.median(ratios):.2f}" if ratios else "",
            _gigabytes([run.peak_bytes for run in of_way]),
            _gigabytes([run.before_bytes for run in of_way]),
            f"{flops / sum(run.tokens for run in of_way) / GIGA:.2f}",
            f"{flops / seconds / peak:.0%}",
        ]


def _gigabytes(values: Sequence[int]) -> str:
    return f"{np.median(values) / GIGA:.2f}"


if __name__ == "__main__":
    main()
