"""Hidden states as the statistics read them, from the artifacts of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from flatprobe.config.blocks import Responses
from flatprobe.planner.contracts import Entry
from flatprobe.statistics.geometry.states import StateKind, States


def kinds(inputs: Mapping[str, Path], entries: Sequence[Entry]) -> list[StateKind]:
    """The stored kinds of states, sorted."""
    with safe_open(inputs[entries[0].role] / "states.safetensors", framework="numpy") as file:
        return sorted(map(StateKind.parse, file.keys()))


def states_of(
    inputs: Mapping[str, Path], entries: Sequence[Entry], kind: StateKind, seed: int | None = None
) -> dict[str, States]:
    """States per condition, of one seed or of all; several seeds are laid side by side along the hidden axis.

    So inner products are sums over seeds, and every measure is of the seeds together; a condition whose checkpoint
    depends on no seed is the same in each.
    """
    named = sorted(entries, key=lambda entry: str(entry.condition))
    parts: dict[str, list[States]] = {}
    for condition, group in groupby(named, key=lambda entry: str(entry.condition)):
        runs = list(group)
        if seed is not None and len(runs) > 1:
            runs = [entry for entry in runs if entry.seed == seed]
        parts[condition] = [States.load(inputs[entry.role], kind, condition=condition) for entry in runs]
    most = max(len(runs) for runs in parts.values())
    return {
        condition: replace(
            runs[0], h_PQLD=np.concatenate([run.h_PQLD for run in runs] * (most // len(runs)), axis=-1), seeds=most
        )
        for condition, runs in parts.items()
    }


def index_of(folder: Path) -> dict[str, Any]:
    """Names of the personas, questions and layers of an artifact of states, and its unfinished answers."""
    index = json.loads((folder / "index.json").read_text())
    assert isinstance(index, dict)
    return index


def unfinished_questions(index: Mapping[str, Any], responses: Responses, pool: Sequence[str]) -> set[str]:
    """Questions that a condition's states are read on with an answer that is cut or empty, of these personas."""
    if responses == "fixed":
        return set(index["unfinished_fixed"])
    return {question for persona, question in index["unfinished"] if persona in pool}
