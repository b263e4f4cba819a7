"""Stage: a checkpoint that exists already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flatprobe.models.load import write_pointer
from flatprobe.plan.contracts import CheckpointSettings


def use_checkpoint(settings: CheckpointSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Point to a model outside the run, fetching or converting it now if that has not happened yet."""
    path = settings.reference.path()
    write_pointer(settings.reference, output)
    facts = {**settings.reference.model_dump(), "origin": "given", "model_type": _model_type(path)}
    (output / "facts.json").write_text(json.dumps(facts))


def _model_type(path: Path) -> str:
    return str(json.loads((path / "config.json").read_text()).get("model_type", "unknown"))
