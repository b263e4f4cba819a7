"""Time, memory and agreement of reading hidden states on given responses, side by side in one run.

    python benchmarks/geometry.py
    python benchmarks/geometry.py --model FOLDER --device cuda --dtype bfloat16 --batch 64
    python benchmarks/geometry.py --shape qwen2.5-7b --device cuda --dtype bfloat16 --batch 64 --answer 300

The default is the embedded model (SmolLM2-135M-Instruct), 11 personas x 20 questions, six layers, six positions. Every
way runs in its own process: one prompt at a time with all hidden states; the same in batches, with the language-model
head (as a model is usually called) and without; and flatprobe. Then flatprobe with other numbers of layers and
positions, and its time against the least that the device could need.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from flatprobe.console import console
from flatprobe.study.schema import Geometry

CHILD = Path(__file__).with_name("geometry_ways.py")
WAYS = ("one prompt at a time", "batched", "batched, without the head", "flatprobe")
SWEEP = {
    "flatprobe: last layer, 1 position": (1, 1),
    "flatprobe: last layer, 6 positions": (1, 6),
    "flatprobe: 6 layers up to the last": (6, 6),
    "flatprobe: all layers": (None, 6),
}
"""How many layers, always with the last one (None: all), and how many positions."""
MEGABYTE = 1e6


@dataclass(frozen=True)
class Task:
    """One way of reading states; the other fields are options of this script."""

    way: str
    model: str | None
    shape: str | None
    device: str
    dtype: str
    personas: int
    questions: int
    answer: int
    layers: Sequence[int]
    batch: int
    repeats: int


@dataclass(frozen=True)
class Measured:
    """One way, measured in its own process."""

    states: NDArray[np.float32]
    seconds: float
    """Median of the repeats, wall clock."""
    cpu_seconds: float
    """Median of the repeats, over all threads; other work on the machine disturbs it less."""
    rise: float
    """Bytes: peak of one run above the loaded model."""
    peak: float
    """Bytes: the same peak with the model and the libraries."""
    tokens: int
    """Tokens of all rows."""
    computed: int
    """Tokens that went through the blocks."""
    threads: int
    """CPU threads."""
    flops: float = 0.0
    moved: float = 0.0
    best_flops: float = 0.0
    best_moved: float = 0.0
    least_seconds: float = 0.0

    def write(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def read(cls, path: Path) -> Measured:
        with np.load(path) as stored:
            return cls(**{name: stored[name] if name == "states" else stored[name].item() for name in stored})

    def facts(self) -> dict[str, Any]:
        """Everything except the states."""
        return {name: value for name, value in asdict(self).items() if name != "states"}


def main() -> None:
    """Run every way in its own process and print one table."""
    options = _options()
    results: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in _tasks(options):
            path = Path(folder) / f"{len(results)}.npz"
            subprocess.run([sys.executable, str(CHILD), json.dumps(asdict(task)), str(path)], check=True)
            results[task.way] = Measured.read(path)
            console(stderr=True).print(f"{task.way}: {results[task.way].seconds:.2f} s")
    show(results)
    if options.json:
        facts = {way: measured.facts() for way, measured in results.items()}
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    fields = {name: value for name, value in vars(options).items() if name not in ("json", "skip")}
    for way in (*WAYS, *SWEEP):
        if way not in options.skip:
            yield Task(way=way, **fields)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a chat model (default: the embedded one)")
    parser.add_argument("--shape", help="a published shape with random weights instead: see shapes.py")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--personas", type=int, default=11)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--answer", type=int, default=20, help="words of an answer (tokens with --shape)")
    parser.add_argument("--layers", type=int, nargs="+", default=list(Geometry().layers))
    parser.add_argument("--batch", type=int, default=16, help="rows in a forward pass, of every batched way")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="names of ways to leave out")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    return parser.parse_args()


def show(results: Mapping[str, Measured]) -> None:
    """The ways against each other, flatprobe by layers and positions, and against the device."""
    table = Table("way", "seconds", "CPU s", "times flatprobe", "tokens run", "rise MB", "peak MB", "agreement")
    flatprobe, plain = results.get("flatprobe"), results.get(WAYS[0]) or results.get(WAYS[1])
    for way, measured in results.items():
        compared = way in WAYS
        table.add_row(
            way,
            f"{measured.seconds:.2f}",
            f"{measured.cpu_seconds:.1f}",
            f"{measured.seconds / flatprobe.seconds:.2f}" if flatprobe and compared else "",
            f"{measured.computed:,}",
            f"{measured.rise / MEGABYTE:.0f}",
            f"{measured.peak / MEGABYTE:.0f}",
            f"{_distance(measured, plain):.1e}" if plain and plain is not measured and compared else "",
        )
    printer = console()
    printer.print(table)
    first = next(iter(results.values()))
    printer.print(
        f"{first.tokens:,} tokens, {first.threads} threads of {os.cpu_count()} cores. Seconds: median of the "
        "repeats. Rise: peak of one run above the loaded model. Agreement: largest distance of a state to the "
        "first way's, relative to its norm."
    )
    if flatprobe is not None:
        printer.print(
            f"flatprobe needs at least {flatprobe.flops / 1e12:.2f} TFLOP and {flatprobe.moved / 1e9:.1f} GB of "
            f"memory traffic. This device reaches {flatprobe.best_flops / 1e12:.2f} TFLOP/s and "
            f"{flatprobe.best_moved / 1e9:.0f} GB/s (measured: a matrix product, a copy). The least time is therefore "
            f"{flatprobe.least_seconds:.2f} s, {flatprobe.least_seconds / flatprobe.seconds:.0%} of the measured time."
        )


def _distance(measured: Measured, reference: Measured) -> float:
    norms = np.linalg.norm(reference.states, axis=-1)
    return float((np.linalg.norm(measured.states - reference.states, axis=-1) / norms).max())


if __name__ == "__main__":
    main()
