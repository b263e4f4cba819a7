"""Measures all parts in one process, each written down as it ends: `run.py OPTIONS` (see `registered_study.py`).

In a folder of its own because the folder of a script is where Python looks first, and `benchmarks/statistics.py` is
not the `statistics` that libraries mean.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from bench import Bench
from bound import measured_device
from reading import geometry
from results import Measured, Results
from sampling import sampling, sampling_adapted

from flatprobe import console
from training import coupling, finetune

PARTS: dict[str, Callable[[Bench], Iterator[Measured]]] = {
    "geometry": geometry,
    "coupling": coupling,
    "finetune": finetune,
    "sampling": sampling,
    "sampling-adapter": sampling_adapted,
}


def main() -> None:
    """The ceilings first, then every part that is not skipped."""
    options = Namespace(**json.loads(sys.argv[1]))
    path = Path(options.json)
    bench = Bench.of(options)
    bench.wait()
    results = Results(_device(options))
    if "ceilings" not in options.skip:
        results.device |= asdict(measured_device(bench.loaded.device, torch.bfloat16))
    results.write(path)
    for name, part in PARTS.items():
        if name in options.skip:
            continue
        for measured in part(bench):
            results.add(measured, path)
            speed = measured.tokens_per_second
            said = f"{speed:,.0f} tokens/s" if speed else f"failed: {measured.failed}"
            console.console(stderr=True).print(f"{measured.part}, {measured.rows} rows: {said}")


def _device(options: Namespace) -> dict[str, Any]:
    on_gpu = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "shape": options.shape, "dtype": "bfloat16", "answer": options.answer,
        "finetune_answer": options.finetune_answer, "torch": torch.__version__,
        "transformers": transformers.__version__, "peft": peft.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    main()
