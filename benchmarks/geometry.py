"""Time, memory and agreement of reading hidden states on given responses, side by side in one run.

    python benchmarks/geometry.py
    python benchmarks/geometry.py --model FOLDER --device cuda --dtype bfloat16 --batch 64
    python benchmarks/geometry.py --shape qwen2.5-7b --device cuda --dtype bfloat16 --batch 64 --answer 300

By default the embedded model (SmolLM2-135M-Instruct), 11 personas x 20 questions, six layers, six positions. Every
way runs in a process of its own: one prompt at a time with all hidden states, the same batched (with the language-model
head, as a model is called, and without), and flatprobe. Then flatprobe's cost against layers and positions, and its
share of what the device could do at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from states.measured import Measured, show
from states.task import SWEEP, WAYS, Task

from flatprobe.console import console
from flatprobe.study.schema import Geometry

SCRIPT = Path(__file__).parent / "states" / "measure.py"


def main() -> None:
    """Run every way in a process of its own, say how long it took, and print one table."""
    options = _options()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in _tasks(options):
            result = Path(folder) / f"{len(found)}.npz"
            command = [sys.executable, str(SCRIPT), json.dumps(asdict(task)), str(result)]
            subprocess.run(command, check=True)
            found[task.way] = Measured.read(result)
            console(stderr=True).print(f"{task.way}: {found[task.way].seconds:.2f} s")
    show(found, WAYS)
    if options.json:
        facts = {way: measured.facts() for way, measured in found.items()}
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    told = {name: value for name, value in vars(options).items() if name not in ("json", "skip")}
    for way in (*WAYS, *SWEEP):
        if way not in options.skip:
            yield Task(way=way, **told)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a chat model (default: the embedded one)")
    parser.add_argument("--shape", help="a published shape with random weights instead: see states/rows.py")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--personas", type=int, default=11)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--answer", type=int, default=20, help="words of an answer (tokens with --shape)")
    parser.add_argument("--layers", type=int, nargs="+", default=list(Geometry().layers))
    parser.add_argument("--batch", type=int, default=16, help="rows in a forward pass, of every batched way")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="ways left out, by name")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
