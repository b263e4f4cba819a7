"""The study that compares two checkpoints: made of options instead of a file, and without a coupling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from flatprobe.config.blocks import RESPONSES
from flatprobe.config.suggest import did_you_mean
from flatprobe.config.validation import explain
from flatprobe.config.yaml_file import Document, FieldPath
from flatprobe.errors import Problem, UserError
from flatprobe.study import resources
from flatprobe.study.checks.every_check import study_problems
from flatprobe.study.decision_schema import GeometricLeg
from flatprobe.study.load import load_study, read_panel_file, read_questions_file
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import PersonaEntry
from flatprobe.study.questions import Question, SetName, normalised
from flatprobe.study.recipe_schema import Precision
from flatprobe.study.schema import Geometry, Panel, Questions, Study

POSITIONS = Geometry().positions
REGISTERED_DEPTH = 28
"""Decoder blocks of the model that the registered layers were chosen for."""
OPTIONS: Mapping[FieldPath, str] = {
    ("model",): "BASE",
    ("seeds",): "--seed",
    ("panel",): "--panel",
    ("panel", "source"): "--source",
    ("panel", "bystanders"): "--bystanders",
    ("questions",): "--questions",
    ("questions", "evaluation", "count"): "--n-questions",
    ("conditions", "treated"): "TREATED",
    ("conditions", "treated", "adapter"): "--adapter",
    ("geometry", "layers"): "--layers",
    ("geometry", "positions"): "--positions",
    ("geometry", "samples"): "--samples",
    ("geometry", "max_new_tokens"): "--max-new-tokens",
    ("geometry", "resamples"): "--resamples",
    ("decision", "geometry", "level"): "--level",
    ("decision", "geometry", "responses"): "--responses",
}
"""Field of the study to the option of `flatprobe geometry` that gives its value: the place of a problem."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What is compared and how; None where a default is taken. See `flatprobe.compare.compare_checkpoints`."""

    base: str
    treated: str | None
    adapter: str | None
    panel: Path | None
    questions: Path | None
    source: str
    bystanders: Sequence[str] | None
    layers: Sequence[int] | Literal["auto", "all"]
    positions: Sequence[str]
    responses: Sequence[str]
    samples: int
    max_new_tokens: int
    suffix: str
    n_questions: int | None
    resamples: int | None
    level: float | None
    seed: int
    precision: Precision


def automatic_layers(depth: int) -> tuple[int, ...]:
    """The registered layers at the same relative depth of a model with `depth` blocks, each once."""
    shares = [(layer + 1) / REGISTERED_DEPTH for layer in Geometry().layers]
    return tuple(dict.fromkeys(max(0, int(share * depth + 0.5) - 1) for share in shares))


def registered_bystanders() -> tuple[str, ...]:
    """The bystanders of the registered study."""
    return load_study(resources.shipped_study("em_flattening")).study.panel.bystanders


def load_comparison(options: ComparisonOptions, depth: int | None, problems: list[Problem]) -> LoadedStudy:
    """The study of the options; `problems` takes everything that is wrong, each at its option.

    `depth` is the base's number of decoder blocks, needed for layers "auto" and "all"; None if it cannot be read.

    Raises:
        UserError: no study can be made.
    """
    entries = read_panel_file(options.panel or resources.path("panel.yaml"), "--panel", problems)
    questions = _read_questions(options.questions, problems)
    if (options.treated is None) == (options.adapter is None):
        message = "give a second checkpoint or an adapter of BASE, one of the two"
        remedy = "--adapter FOLDER replaces TREATED"
        problems.append(Problem("geometry.treated", "TREATED", message, remedy))
    for option, values, choices in (
        ("--responses", options.responses, RESPONSES),
        ("--positions", options.positions, POSITIONS),
    ):
        if not values:
            problems.append(Problem("list.empty", option, "an empty list", f"there is {', '.join(choices)}"))
    problems += [
        Problem("geometry.responses", "--responses", f"{name}: unknown", did_you_mean(name, RESPONSES))
        for name in options.responses
        if name not in RESPONSES
    ]
    sets: dict[SetName, tuple[Question, ...]] = {"coupling": (), "calibration": ()}
    if questions:
        sets["evaluation"] = questions
    study = _fitting(_content(options, entries, len(questions), depth), problems)
    loaded = _Loaded(study=study, path=Path("flatprobe geometry"), lines={}, entries=entries, questions=sets)
    problems += study_problems(loaded)
    return loaded


def _content(
    options: ComparisonOptions, entries: Mapping[str, PersonaEntry], n_questions: int, depth: int | None
) -> dict[str, Any]:
    """The study as the data of a file. Layers that depend on an unknown depth are `[0]`."""
    count = options.n_questions
    if count is None:
        count = min(Questions().evaluation.count, n_questions) or 1
    treated = named("checkpoint", options.treated) if options.treated else named("adapter", options.adapter)
    return {
        "name": "geometry",
        "description": f"{options.treated or options.adapter} against {options.base}",
        "model": named("id", options.base) | {"dtype": options.precision},
        "seeds": [options.seed],
        "panel": _panel(options, entries),
        "questions": {"evaluation": {"count": count, "suffix": options.suffix}},
        "conditions": {"base": {}, "treated": treated},
        "coupling": None,
        "leakage": {"precision": options.precision},
        **_geometry(options, depth),
    }


def _panel(options: ComparisonOptions, entries: Mapping[str, PersonaEntry]) -> dict[str, Any]:
    """No negatives; the default references that the panel has and that have no other role."""
    default_references: tuple[str, ...] = Panel.model_fields["references"].default
    pool = options.bystanders
    if pool is None:
        candidates = entries if options.panel is not None else registered_bystanders()
        pool = [name for name in candidates if name not in (options.source, *default_references)]
    return {
        "file": str(options.panel) if options.panel is not None else None,
        "source": options.source,
        "negatives": [],
        "random_negatives": 0,
        "bystanders": list(pool),
        "references": [n for n in default_references if n in entries and n not in (options.source, *pool)],
    }


def _geometry(options: ComparisonOptions, depth: int | None) -> dict[str, Any]:
    """The blocks `geometry` and `decision`. The registered position decides if it is read, else the first one."""
    if options.layers == "all":
        layers = list(range(depth or 1))
    elif options.layers == "auto":
        layers = list(automatic_layers(depth or 1))
    else:
        layers = sorted({int(layer) for layer in options.layers})
    positions = list(dict.fromkeys(options.positions)) or list(POSITIONS)
    valid = [name for name in positions if name in POSITIONS]
    registered = GeometricLeg().position
    leg = {
        "position": registered if registered in valid or not valid else valid[0],
        "responses": "fixed" if tuple(options.responses) == ("fixed",) else "own",
        "level": options.level,
    }
    geometry = {
        "layers": layers,
        "positions": positions,
        "samples": options.samples,
        "max_new_tokens": options.max_new_tokens,
        "resamples": options.resamples,
    }
    arms = {"treated": "treated", "control": "base", "benign": None}
    return {"geometry": _given(geometry), "decision": {**arms, "geometry": _given(leg)}}


def _given(block: dict[str, Any]) -> dict[str, Any]:
    """The fields that are given; the schema has the defaults of the others."""
    return {name: value for name, value in block.items() if value is not None}


def named(field: str, text: str | None) -> dict[str, Any]:
    """`OWNER/NAME@REVISION` as an id and a revision; a folder's name may hold an @."""
    if text is None:
        return {}
    id, _, revision = (text, "", "") if Path(text).expanduser().is_dir() else text.partition("@")
    return {field: id, "revision": revision or None}


def _fitting(content: dict[str, Any], problems: list[Problem]) -> Study:
    """The study, with defaults in place of values that do not fit; these are problems."""
    document = _Content(Path(), content, {}, ())
    while True:
        try:
            return Study.model_validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            problems.append(explain(detail, document, Study))
            where = tuple(detail["loc"])
            fields = [where[:length] for length in range(len(where), 0, -1) if where[:length] in OPTIONS]
            if detail["type"] == "missing" or not fields:
                raise UserError(problems)
            *blocks, field = map(str, fields[0])
            block = content
            for name in blocks:
                block = block[name]
            block.pop(field, None)


def _read_questions(file: Path | None, problems: list[Problem]) -> tuple[Question, ...]:
    """The evaluation set of a questions file, or the lines of a .txt file; None is the package's file."""
    path = file or resources.path("questions.yaml")
    if path.suffix != ".txt" or not path.is_file():
        return read_questions_file(path, "--questions", problems).get("evaluation", ())
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        problems.append(Problem("questions.encoding", str(path), "is not UTF-8 text"))
        return ()
    first: dict[str, int] = {}
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        before = first.setdefault(normalised(line), number)
        if before != number:
            problems.append(Problem("questions.same_text", f"{path}:{number}", f"asks the question of line {before}"))
        questions.append(Question(id=f"line_{number}", kind="factual", text=line.strip()))
    if not questions:
        problems.append(Problem("questions.empty", str(path), "holds no question", "write a question per line"))
    return tuple(questions)


class _Content(Document):
    """A study's fields given by options."""

    def place(self, *where: str | int) -> str:
        return _option(where)


class _Loaded(LoadedStudy):
    """A study whose problems are placed at options."""

    def place(self, *where: str | int) -> str:
        return _option(where)


def _option(where: FieldPath) -> str:
    """The option of a field, or of the nearest field around it."""
    prefixes = (where[:length] for length in range(len(where), 0, -1))
    return next((OPTIONS[prefix] for prefix in prefixes if prefix in OPTIONS), "flatprobe geometry")
