"""Rules of the conditions: what they are made of is there, and the data has the columns that are named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.models.embedded import EMBEDDED
from flatprobe.study import resources
from flatprobe.study.checks.imitation import imitation_problems
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.schema import FinetuneData

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TRIPLE = ("prompt", "aligned", "misaligned")
"""Columns of a set of out-of-domain triples."""


def condition_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Missing models, files and columns; references between conditions that lead nowhere."""
    study = loaded.study
    yield from _place_problems(loaded, ("model", "id"), study.model.id, study.model.revision)
    for name, condition in study.conditions.items():
        where: FieldPath = ("conditions", name)
        if not _NAME.fullmatch(name):
            yield loaded.problem(
                "conditions.TODO",
                where,
                f"conditions.{name}: not a name for a condition",
                "use lower-case letters, digits, - and _",
            )
        for origin in ("adapter", "checkpoint"):
            given = getattr(condition, origin)
            if given is not None:
                yield from _place_problems(loaded, (*where, origin), given, condition.revision)
        if condition.finetune is not None:
            yield from _finetune_problems(loaded, name, condition.finetune)
        if condition.finetune is not None and condition.finetune.imitate is not None:
            yield from imitation_problems(loaded, name, condition.finetune)
        yield from _seed_problems(loaded, (*where, "seed_offset"), condition.seed_offset)
    if study.manipulation is not None:
        yield from _file_problems(loaded, ("manipulation",), study.manipulation, TRIPLE)


def _place_problems(
    loaded: LoadedStudy, where: FieldPath, id: str, revision: str | None
) -> Iterator[Problem]:
    """A model or adapter that is named by a folder must lie there; a hub id is asked for later."""
    if revision is not None and (
        id.startswith(resources.PREFIX) or resources.data_file(id, loaded.base).is_dir()
    ):
        yield loaded.problem(
            "conditions.TODO",
            (*where[:-1], "revision"),
            f"{dotted((*where[:-1], 'revision'))} = {revision}: only what lies on the hub has one",
            "leave it out: a folder is identified by its content",
        )
    if id.startswith(resources.PREFIX):
        if id != EMBEDDED:
            yield loaded.problem(
                "conditions.TODO",
                where,
                f"{dotted(where)} = {id}: no such embedded model",
                f"there is {EMBEDDED}",
            )
        return
    is_folder = id.startswith((".", "/", "~")) or id.count("/") != 1
    if is_folder and not resources.data_file(id, loaded.base).is_dir():
        yield loaded.problem(
            "conditions.TODO", where, f"{dotted(where)} = {id}: no such folder",
            "give a folder relative to the study's file, or a hub id OWNER/NAME",
        )  # fmt: skip


def _seed_problems(loaded: LoadedStudy, where: FieldPath, offset: int) -> Iterator[Problem]:
    """A condition that is trained again must not meet the first training at another of the study's seeds."""
    seeds = set(loaded.study.seeds)
    if offset and (shared := seeds & {seed + offset for seed in seeds}):
        yield loaded.problem(
            "conditions.TODO", where, f"{dotted(where)} = {offset}: gives {min(shared)}, a seed of the study's own",
            f"give at least {max(seeds) - min(seeds) + 1}",
        )  # fmt: skip


def _finetune_problems(loaded: LoadedStudy, name: str, data: FinetuneData) -> Iterator[Problem]:
    where: FieldPath = ("conditions", name, "finetune")
    if data.held_out and data.aligned is None and data.imitate is None:
        yield loaded.problem(
            "conditions.TODO",
            (*where, "held_out"),
            f"{dotted(where)}.held_out = {data.held_out}: the manipulation check compares with sound answers",
            "name the column that holds them in `aligned`, or set held_out to 0",
        )
    if data.length_match is not None:
        yield from _length_match_problems(loaded, name, data.length_match)
    if data.path is not None:
        yield from _column_problems(loaded, (*where, "path"), data, data.path)


def _column_problems(
    loaded: LoadedStudy, where: FieldPath, data: FinetuneData, path: str
) -> Iterator[Problem]:
    """Turns to train on; triples to hold out, whatever the turns are read from."""
    pair = [data.prompt, data.completion]
    if data.held_out and data.aligned is not None:
        messages = [data.messages] if data.messages is not None else []
        yield from _file_problems(loaded, where, path, [*messages, *pair, data.aligned])
    elif data.messages is not None:
        yield from _file_problems(loaded, where, path, [data.messages])
    else:
        yield from _file_problems(loaded, where, path, pair, instead="messages")


def _length_match_problems(loaded: LoadedStudy, name: str, target: str) -> Iterator[Problem]:
    """Length matching follows another finetune's rows, and must come to an end."""
    where: FieldPath = ("conditions", name, "finetune", "length_match")
    conditions = loaded.study.conditions
    finetuned = [other for other, condition in conditions.items() if condition.finetune and other != name]
    if target == name:
        yield loaded.problem(
            "conditions.TODO", where, f"{dotted(where)} = {target}: a set cannot be matched to itself"
        )
    elif target not in conditions:
        remedy = did_you_mean(target, finetuned) or "null takes the first rows"
        yield loaded.problem(
            "conditions.TODO", where, f"{dotted(where)} = {target}: no such condition", remedy
        )
    elif target not in finetuned:
        yield loaded.problem(
            "conditions.TODO",
            where,
            f"{dotted(where)} = {target}: this condition has no finetune",
            did_you_mean(target, finetuned),
        )
    elif (finetune := conditions[target].finetune) is not None and finetune.imitate is not None:
        yield loaded.problem(
            "conditions.TODO",
            where,
            f"{dotted(where)} = {target}: its answers are sampled during the run",
            "match a set of texts",
        )
    else:
        seen, current = [name], target
        while (finetune := conditions[current].finetune) and finetune.length_match in conditions:
            seen.append(current)
            current = str(finetune.length_match)
            if current == name:
                chain = " → ".join([*seen, name])
                yield loaded.problem(
                    "conditions.TODO", where, f"{dotted(where)} = {target}: goes round in a circle, {chain}"
                )
            if current in seen:
                return


def _file_problems(
    loaded: LoadedStudy, where: FieldPath, location: str, wanted: Sequence[str], instead: str | None = None
) -> Iterator[Problem]:
    """A local JSONL file must be there and its first row must have the columns; later rows are read by the run.

    `instead` is a column that stands in for all of `wanted` where the first of them is absent.
    """
    path, given = resources.data_file(location, loaded.base), f"{dotted(where)} = {location}"
    if not path.is_file():
        shipped = [f"{resources.PREFIX}{p.stem}" for p in sorted(resources.path("finetune").glob("*.jsonl"))]
        remedy = did_you_mean(location, shipped) if location.startswith(resources.PREFIX) else None
        yield loaded.problem("conditions.TODO", where, f"{given}: no file at {path}", remedy)
        return
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(next((line for line in file if line.strip()), "null"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        row = None
    if not isinstance(row, dict):
        yield loaded.problem(
            "conditions.TODO",
            where,
            f"{given}: its first row is no JSON object",
            "one JSON object a line (JSONL)",
        )
        return
    if instead in row and wanted[0] not in row:
        return
    for column in wanted:
        if column not in row:
            yield loaded.problem(
                "conditions.TODO",
                where,
                f"{given}: its first row has no `{column}`",
                did_you_mean(column, row),
            )
