"""`flatprobe geometry`: the geometric probe on any two checkpoints, without the rest of the experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from flatprobe import console
from flatprobe.cli.options import JSON, json_problems, names, put_out
from flatprobe.cli.study import show_comparison
from flatprobe.compare import compare_checkpoints
from flatprobe.errors import Problem
from flatprobe.machine.load import load_machine
from flatprobe.pipeline.display import display_for_people
from flatprobe.study.schema import Geometry


def geometry(
    base: str,
    treated: str | None,
    *,
    layers: str,
    positions: Sequence[str],
    responses: Sequence[str],
    bystanders: Sequence[str],
    machine: Path | None,
    json_file: JSON,
    **others: Any,
) -> None:
    """Compare two checkpoints, print the result, and write rows and page into the run folder.

    Raises:
        UserError: everything that is wrong with the options and with the two models' files, at once; nothing is run
            and nothing is written then.
    """
    problems = json_problems(json_file, [])
    chosen = _layers(layers, problems)
    comparison = compare_checkpoints(
        base,
        treated,
        layers=chosen,
        positions=Geometry().positions if tuple(positions) == ("all",) else _once(positions),
        responses=_once(responses),
        bystanders=_once(bystanders) if bystanders else None,
        machine=load_machine(machine),
        display=display_for_people(),
        problems=problems,
        **others,
    )
    rows = json.dumps(comparison.rows.to_dicts(), indent=1, allow_nan=False)
    path = comparison.folder / "geometry.json"
    path.write_text(rows + "\n", encoding="utf-8")
    if put_out(rows, json_file):
        return
    show_comparison(comparison.folder)
    console.say(f"All numbers: {path}; page: {comparison.page}")


def _once(lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names(lists)))


def _layers(text: str, problems: list[Problem]) -> Sequence[int] | Literal["auto", "all"]:
    """`auto`, `all`, or numbers; that the model has them is checked later."""
    if text == "auto":
        return "auto"
    if text == "all":
        return "all"
    parts, remedy = _once([text]), "as in 6,10,14, or all, or auto"
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,6}", part)]
    problems += [Problem("geometry.layers", "--layers", f"{part} is no decoder block", remedy) for part in wrong]
    if not parts:
        problems.append(Problem("geometry.layers", "--layers", "names no layer", remedy))
    return [int(part) for part in parts if part not in wrong] or "auto"
