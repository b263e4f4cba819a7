"""Speed of the registered study's stages at its model's shape, and from it the study's GPU-hours.

    python benchmarks/registered_study.py --tokenizer FOLDER --device cuda --json speed.json \\
        --plan studies/em_flattening.yaml
    python benchmarks/registered_study.py --tokenizer FOLDER --measured speed.json --answer 500 \\
        --plan studies/em_flattening.yaml                                    # reckons again, measures nothing
    python benchmarks/registered_study.py --tokenizer FOLDER --shape tiny    # a check, on the CPU, in half a minute

Weights are random and drawn on the device: with forced lengths no speed depends on them. The tokenizer is any chat
model's whose ids the shape has. All parts run in one process, each written to the JSON file as it ends, so that one
killed in between leaves what it measured; what does not fit into the memory is said, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from registered.hours import show_hours
from registered.results import Results, show
from registered.texts import conversations_of
from registered.workload import lengths_of

from flatprobe import console
from flatprobe.machine.load import load_machine
from flatprobe.study.load import load_study

FOLDER = Path(__file__).parent
CHILD = FOLDER / "registered" / "run.py"
STUDY, MACHINE = (
    FOLDER.parent / "studies" / "em_flattening.yaml",
    FOLDER.parent / "machines" / "one_h100.yaml",
)
PARTS = ("ceilings", "geometry", "coupling", "finetune", "sampling", "sampling-adapter")
TINY: dict[str, Any] = {
    "answer": 12, "finetune_answer": 12, "finetune_prompt": 8, "personas": 3, "questions": 4, "rows": [4, 8],
    "training_rows": [8], "steps": 1, "repeats": 1,
}  # fmt: skip
"""What the tiny shape is tried with where nothing else is said."""


def main() -> None:
    """Measure, print, and reckon."""
    options = _options()
    if options.measured is not None:
        results = Results.read(options.measured)
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = _measure(options, options.json or Path(folder) / "results.json")
    show(results)
    if options.plan is not None:
        loaded = load_study(options.plan)
        lengths = lengths_of(
            loaded,
            conversations_of(options.tokenizer),
            options.answer,
            options.finetune_prompt,
            options.finetune_answer,
        )
        show_hours(results, loaded, lengths)


def _measure(options: argparse.Namespace, path: Path) -> Results:
    """What the process wrote down, whether or not it came to its end."""
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    paths = [str(FOLDER / "states"), *filter(None, [os.environ.get("PYTHONPATH")])]
    path.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(told | {"json": str(path)})],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False,
    )  # fmt: skip
    if done.returncode:
        console.warn(f"the measuring process ended with {done.returncode}; what it wrote before is used")
    if not path.is_file():
        raise SystemExit("nothing was measured")
    return Results.read(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    machine = load_machine(MACHINE)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder of a tokenizer with a chat template"
    )
    parser.add_argument("--shape", default="qwen2.5-7b", help="see states/rows.py")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--study", type=Path, default=STUDY, help="whose recipe, panel and layers are timed")
    parser.add_argument("--plan", type=Path, help="a study whose GPU-hours are reckoned")
    parser.add_argument("--json", type=Path, help="where results are written as they come")
    parser.add_argument("--measured", type=Path, help="such a file: measure nothing, and reckon with it")
    parser.add_argument("--skip", nargs="*", default=[], choices=PARTS, help="parts left out")
    parser.add_argument("--answer", type=int, default=300, help="tokens of an answer, forced or on average")
    parser.add_argument("--finetune-answer", type=int, default=200, help="tokens of a finetune answer")
    parser.add_argument("--finetune-prompt", type=int, default=60, help="tokens of a finetune prompt")
    parser.add_argument("--personas", type=int, default=None, help="of the geometry pass (default: all)")
    parser.add_argument("--questions", type=int, default=None, help="of the geometry pass (default: all)")
    parser.add_argument("--forward-rows", type=int, default=machine.forward_rows)
    parser.add_argument("--training-rows", type=int, nargs="+", default=[machine.training_rows, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 256, 512], help="rows decoded together")
    parser.add_argument("--steps", type=int, default=4, help="timed optimiser steps, after two")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of passes and samplings, at most")
    parser.add_argument("--seconds", type=float, default=8.0, help="after which no further run is begun")
    options = parser.parse_args()
    if options.shape == "tiny":
        for name, value in TINY.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
