"""Speed of the registered study's stages at its model's shape, and the study's GPU-hours from these speeds.

    python benchmarks/registered_study.py --tokenizer FOLDER --device cuda --json speed.json \\
        --plan studies/em_flattening.yaml
    python benchmarks/registered_study.py --tokenizer FOLDER --measured speed.json --answer 500 \\
        --plan studies/em_flattening.yaml                                    # computes the hours again, times nothing
    python benchmarks/registered_study.py --tokenizer FOLDER --shape tiny    # a check on the CPU, half a minute

Weights are random and drawn on the device; with forced lengths no speed depends on them. The tokenizer can be any chat
model's whose ids the shape has. All parts run in one process. Each is written to the JSON file as it ends, so a run
that was killed keeps what it measured. A part that does not fit into memory is reported, and the rest continues.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flatprobe import console
from flatprobe.machine.load import load_machine
from flatprobe.study.load import load_study
from registered_bench import conversations_of
from registered_hours import lengths_of, show_hours
from registered_results import Results, show

ROOT = Path(__file__).parent.parent
CHILD = Path(__file__).with_name("registered_parts.py")
STUDY, MACHINE = ROOT / "studies" / "em_flattening.yaml", ROOT / "machines" / "one_h100.yaml"
PARTS = ("ceilings", "geometry", "coupling", "finetune", "sampling", "sampling-adapter")
TINY: dict[str, Any] = {
    "answer": 12,
    "finetune_answer": 12,
    "finetune_prompt": 8,
    "personas": 3,
    "questions": 4,
    "rows": [4, 8],
    "training_rows": [8],
    "steps": 1,
    "repeats": 1,
}
"""Other defaults for the tiny shape."""


def main() -> None:
    """Measure, or read measurements; print them and the GPU-hours."""
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
    """What the measuring process wrote, even if it failed later."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    path.unlink(missing_ok=True)
    command = [sys.executable, str(CHILD), json.dumps(settings | {"json": str(path)})]
    status = subprocess.run(command, check=False).returncode
    if status:
        console.warn(f"the measuring process ended with {status}; its results up to then are used")
    if not path.is_file():
        raise SystemExit("nothing was measured")
    return Results.read(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine = load_machine(MACHINE)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer with a chat template")
    parser.add_argument("--shape", default="qwen2.5-7b", help="see shapes.py")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--study", type=Path, default=STUDY, help="gives recipe, panel and layers")
    parser.add_argument("--plan", type=Path, help="compute this study's GPU-hours")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--measured", type=Path, help="use the results in this file; measure nothing")
    parser.add_argument("--skip", nargs="*", default=[], choices=PARTS, help="parts to leave out")
    parser.add_argument("--answer", type=int, default=300, help="mean tokens of an answer (sampling: exactly)")
    parser.add_argument("--finetune-answer", type=int, default=200, help="tokens of a finetune answer")
    parser.add_argument("--finetune-prompt", type=int, default=60, help="tokens of a finetune prompt")
    parser.add_argument("--personas", type=int, default=None, help="of the geometry pass (default: all)")
    parser.add_argument("--questions", type=int, default=None, help="of the geometry pass (default: all)")
    parser.add_argument("--forward-rows", type=int, default=machine.forward_rows)
    parser.add_argument("--training-rows", type=int, nargs="+", default=[machine.training_rows, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 256, 512], help="rows decoded together")
    parser.add_argument("--steps", type=int, default=4, help="timed optimiser steps, after two untimed")
    parser.add_argument("--repeats", type=int, default=3, help="most timed runs of a pass or a sampling")
    parser.add_argument("--seconds", type=float, default=8.0, help="no new run starts after this time")
    options = parser.parse_args()
    if options.shape == "tiny":
        for name, value in TINY.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
