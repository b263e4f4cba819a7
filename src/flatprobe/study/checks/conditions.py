"""Checks of the conditions: their models and files exist, and the data has the columns that are named."""

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
"""Columns of the out-of-domain triples."""


def condition_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Missing models, files and columns; conditions that refer to no other condition."""
    study = loaded.study
    yield from _model_problems(loaded, ("model", "id"), study.model.id, study.model.revision)
    for name, condition in study.conditions.items():
        where: FieldPath = ("conditions", name)
        if not _NAME.fullmatch(name):
            yield loaded.problem(
                "conditions.name",
                where,
                f"{dotted(where)}: not a name for a condition",
                "use lower-case letters, digits, - and _",
            )
        for origin in ("adapter", "checkpoint"):
            model = getattr(condition, origin)
            if model is not None:
                yield from _model_problems(loaded, (*where, origin), model, condition.revision)
        if condition.finetune is not None:
            yield from _finetune_problems(loaded, name, condition.finetune)
        if condition.finetune is not None and condition.finetune.imitate is not None:
            yield from imitation_problems(loaded, name, condition.finetune)
        yield from _seed_problems(loaded, (*where, "seed_offset"), condition.seed_offset)
    if study.manipulation is not None:
        yield from _file_problems(loaded, ("manipulation",), study.manipulation, TRIPLE)


def _model_problems(loaded: LoadedStudy, where: FieldPath, id: str, revision: str | None) -> Iterator[Problem]:
    """A model or adapter given as a folder must exist. A hub id is looked up later."""
    embedded, is_folder = id.startswith(resources.PREFIX), resources.data_file(id, loaded.base).is_dir()
    if revision is not None and (embedded or is_folder):
        yield loaded.bad_value(
            "model.local_revision",
            (*where[:-1], "revision"),
            revision,
            "only a hub repository has a revision",
            "remove it: a folder is identified by its content",
        )
    if embedded:
        if id != EMBEDDED:
            yield loaded.bad_value(
                "model.unknown_embedded", where, id, "no such embedded model", f"there is {EMBEDDED}"
            )
        return
    is_path = id.startswith((".", "/", "~")) or id.count("/") != 1
    if is_path and not is_folder:
        yield loaded.bad_value(
            "model.folder_missing",
            where,
            id,
            "no such folder",
            "give a folder relative to the study's file, or a hub id OWNER/NAME",
        )


def _seed_problems(loaded: LoadedStudy, where: FieldPath, offset: int) -> Iterator[Problem]:
    """A shifted seed must not equal another seed of the study, or the same training would run twice."""
    seeds = set(loaded.study.seeds)
    if offset and (shared := seeds & {seed + offset for seed in seeds}):
        yield loaded.bad_value(
            "conditions.seed_offset",
            where,
            offset,
            f"gives {min(shared)}, which is a seed of the study",
            f"give at least {max(seeds) - min(seeds) + 1}",
        )


def _finetune_problems(loaded: LoadedStudy, name: str, data: FinetuneData) -> Iterator[Problem]:
    where: FieldPath = ("conditions", name, "finetune")
    if data.held_out and data.aligned is None and data.imitate is None:
        yield loaded.bad_value(
            "finetune_data.no_aligned",
            (*where, "held_out"),
            data.held_out,
            "the manipulation check compares with sound answers",
            "name their column in `aligned`, or set held_out to 0",
        )
    if data.length_match is not None:
        yield from _length_match_problems(loaded, name, data.length_match)
    if data.path is not None:
        yield from _column_problems(loaded, (*where, "path"), data, data.path)


def _column_problems(loaded: LoadedStudy, where: FieldPath, data: FinetuneData, path: str) -> Iterator[Problem]:
    """Training reads messages, or prompt and completion. Held-out rows need all three text columns."""
    pair = [data.prompt, data.completion]
    if data.held_out and data.aligned is not None:
        messages = [data.messages] if data.messages is not None else []
        yield from _file_problems(loaded, where, path, [*messages, *pair, data.aligned])
    elif data.messages is not None:
        yield from _file_problems(loaded, where, path, [data.messages])
    else:
        yield from _file_problems(loaded, where, path, pair, alternative="messages")


def _length_match_problems(loaded: LoadedStudy, name: str, target: str) -> Iterator[Problem]:
    """Lengths are matched to the rows of another finetune. A chain of matches must end."""
    where: FieldPath = ("conditions", name, "finetune", "length_match")
    conditions = loaded.study.conditions
    finetuned = [other for other, condition in conditions.items() if condition.finetune and other != name]
    if target == name:
        yield loaded.bad_value("length_match.itself", where, target, "a set cannot be matched to itself")
    elif target not in conditions:
        suggestion = did_you_mean(target, finetuned) or "null takes the first rows"
        yield loaded.bad_value("conditions.unknown", where, target, "no such condition", suggestion)
    elif target not in finetuned:
        remedy = did_you_mean(target, finetuned)
        yield loaded.bad_value("length_match.no_finetune", where, target, "this condition has no finetune", remedy)
    elif (finetune := conditions[target].finetune) is not None and finetune.imitate is not None:
        yield loaded.bad_value(
            "length_match.sampled",
            where,
            target,
            "its answers are sampled during the run",
            "match a condition whose texts exist before the run",
        )
    else:
        chain, current = [name], target
        while (finetune := conditions[current].finetune) and finetune.length_match in conditions:
            chain.append(current)
            current = str(finetune.length_match)
            if current == name:
                message = f"length matches form a circle, {' → '.join([*chain, name])}"
                yield loaded.bad_value("length_match.circle", where, target, message)
            if current in chain:
                return


def _file_problems(
    loaded: LoadedStudy, where: FieldPath, location: str, columns: Sequence[str], alternative: str | None = None
) -> Iterator[Problem]:
    """A local JSONL file must exist and its first row must have the columns. The run reads the other rows.

    `alternative` is a column that replaces all of `columns` where the first of them is absent.
    """
    path = resources.data_file(location, loaded.base)
    if not path.is_file():
        shipped = [f"{resources.PREFIX}{p.stem}" for p in sorted(resources.path("finetune").glob("*.jsonl"))]
        remedy = did_you_mean(location, shipped) if location.startswith(resources.PREFIX) else None
        yield loaded.bad_value("file.missing", where, location, f"no file at {path}", remedy)
        return
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(next((line for line in file if line.strip()), "null"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        row = None
    if not isinstance(row, dict):
        yield loaded.bad_value(
            "file.not_jsonl",
            where,
            location,
            "its first row is not a JSON object",
            "write one JSON object per line (JSONL)",
        )
        return
    if alternative in row and columns[0] not in row:
        return
    for column in columns:
        if column not in row:
            remedy = did_you_mean(column, row)
            yield loaded.bad_value("file.missing_column", where, location, f"its first row has no `{column}`", remedy)
