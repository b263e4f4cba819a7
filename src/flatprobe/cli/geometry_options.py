"""The options of `flatprobe geometry` as values: lists, panel, questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from flatprobe.config.blocks import RESPONSES, Position, Responses
from flatprobe.config.suggest import did_you_mean
from flatprobe.config.validation import validate
from flatprobe.config.yaml_file import read_document
from flatprobe.errors import Problem, UserError
from flatprobe.study import resources
from flatprobe.study.checks.questions import file_problems
from flatprobe.study.load import load_study
from flatprobe.study.pair import automatic_layers
from flatprobe.study.panel import PanelFile, Persona, PersonaEntry, Role
from flatprobe.study.questions import SET_NAMES, Question, QuestionsFile, normalised, take
from flatprobe.study.schema import Panel, Questions, QuestionSet

POSITIONS: tuple[Position, ...] = get_args(Position)


def names(text: str) -> tuple[str, ...]:
    """`a, b` as a, b; each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def read_personas(
    panel: Path | None, source: str, bystanders: str | None, problems: list[Problem]
) -> tuple[Persona, ...]:
    """Source, bystanders and references of a panel file (None: the package's); none where that fails.

    Left out, the bystanders are the registered study's for the package's panel, and else all but source and references.
    """
    entries = _entries(panel, problems)
    if not entries:
        return ()
    place = "--bystanders"
    pool = names(bystanders) if bystanders is not None else _default_bystanders(panel, entries, source)
    unknown = [("--source", source)] if source not in entries else []
    unknown += [(place, name) for name in pool if name not in entries]
    found = [
        Problem(
            "geometry_options.TODO",
            option,
            f"{name}: no such persona in {panel or 'the panel of the package'}",
            did_you_mean(name, entries),
        )
        for option, name in unknown
    ]
    if source in pool:
        found.append(
            Problem("geometry_options.TODO", place, f"{source} is the source", "a pool holds other personas")
        )
    if not pool:
        found.append(
            Problem(
                "geometry_options.TODO",
                place,
                "the pool is empty",
                "name at least one persona beside the source",
            )
        )
    references = tuple(
        n for n in Panel.model_fields["references"].default if n in entries and n not in (source, *pool)
    )
    roles: list[tuple[Role, Sequence[str]]] = [
        ("source", (source,)),
        ("bystander", pool),
        ("reference", references),
    ]
    first: dict[str | None, str] = {}
    for name in (source, *pool, *references):
        if name in entries:
            prompt = entries[name].prompt
            other = first.setdefault(prompt if prompt is None else normalised(prompt), name)
            if other != name:
                found.append(
                    Problem(
                        "geometry_options.TODO",
                        f"panel: {name}",
                        f"has the same prompt as {other}",
                        "give each its own",
                    )
                )
    problems += found
    if found:
        return ()
    return tuple(Persona(name=n, role=role, system=entries[n].prompt) for role, group in roles for n in group)


def read_asked(
    file: Path | None, count: int | None, suffix: str, problems: list[Problem]
) -> tuple[Question, ...]:
    """The first questions of a file: its evaluation set, or the lines of a .txt file; with the suffix.

    None takes the package's questions; without a count, as many as the registered study or as there are.
    """
    try:
        there = _questions(file)
    except UserError as error:
        problems += error.problems
        return ()
    wanted = count if count is not None else min(Questions().evaluation.count, len(there))
    if not 1 <= wanted <= len(there):
        problems.append(
            Problem(
                "geometry_options.TODO",
                "--n-questions",
                f"{wanted}: there are {len(there)} in {file or 'the set of the package'}",
            )
        )
        return ()
    return take(there, QuestionSet(count=wanted, suffix=suffix))


def read_layers(text: str, depth: int, problems: list[Problem]) -> tuple[int, ...]:
    """`all`, `auto`, or numbers; whether the model has them is for `pair_rules` to say."""
    if text in ("all", "auto"):
        return tuple(range(depth)) if text == "all" else automatic_layers(depth)
    found = names(text)
    remedy = "as in 6,10,14, or all, or auto"
    wrong = [part for part in found if not re.fullmatch(r"\d{1,6}", part)]
    problems += [
        Problem("geometry_options.TODO", "--layers", f"{part} is no decoder block", remedy) for part in wrong
    ]
    if not found:
        problems.append(Problem("geometry_options.TODO", "--layers", "names no layer", remedy))
    return tuple(sorted({int(part) for part in found if part not in wrong}))


def read_positions(text: str, problems: list[Problem]) -> tuple[Position, ...]:
    """`all`, or names of positions in the order given."""
    if text == "all":
        return POSITIONS
    return tuple(
        position
        for name in _known("--positions", text, POSITIONS, problems)
        for position in POSITIONS
        if position == name
    )


def read_responses(text: str, problems: list[Problem]) -> tuple[Responses, ...]:
    """`own`, `fixed` or both."""
    found = _known("--responses", text, RESPONSES, problems)
    return tuple(kind for kind in RESPONSES if kind in found)


def _known(option: str, text: str, known: Sequence[str], problems: list[Problem]) -> tuple[str, ...]:
    found = names(text)
    problems += [
        Problem("geometry_options.TODO", option, f"{name}: unknown", did_you_mean(name, known))
        for name in found
        if name not in known
    ]
    if not found:
        problems.append(
            Problem("geometry_options.TODO", option, "names none", f"there is {', '.join(known)}")
        )
    return found


def _entries(panel: Path | None, problems: list[Problem]) -> Mapping[str, PersonaEntry]:
    path = panel or resources.path("panel.yaml")
    if not path.is_file():
        problems.append(
            Problem(
                "geometry_options.TODO", "--panel", f"no file at {path}", "left out: the panel of the package"
            )
        )
        return {}
    try:
        return validate(read_document(path), PanelFile).personas
    except UserError as error:
        problems += error.problems
        return {}


def _default_bystanders(panel: Path | None, entries: Iterable[str], source: str) -> tuple[str, ...]:
    references = Panel.model_fields["references"].default
    pool = (
        entries if panel is not None else load_study(resources.shipped_study("demo")).study.panel.bystanders
    )
    return tuple(name for name in pool if name != source and name not in references)


def _questions(file: Path | None) -> tuple[Question, ...]:
    path = file or resources.path("questions.yaml")
    if not path.is_file():
        raise UserError.one(
            "geometry_options.TODO",
            "--questions",
            f"no file at {path}",
            "left out: the questions of the package",
        )
    if path.suffix == ".txt":
        return _lines(path)
    document = read_document(path)
    content = validate(document, QuestionsFile)
    if problems := list(file_problems(document, {name: getattr(content, name) for name in SET_NAMES})):
        raise UserError(problems)
    return content.evaluation


def _lines(path: Path) -> tuple[Question, ...]:
    """A question per line, called after its line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError.one("geometry_options.TODO", str(path), "is not UTF-8 text") from error
    first: dict[str, int] = {}
    problems, questions = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        before = first.setdefault(normalised(line), number)
        if before != number:
            problems.append(
                Problem("geometry_options.TODO", f"{path}:{number}", f"asks what line {before} asks")
            )
        questions.append(Question(id=f"line_{number}", kind="factual", text=line.strip()))
    if not questions:
        problems.append(
            Problem("geometry_options.TODO", str(path), "holds no question", "a question per line")
        )
    if problems:
        raise UserError(problems)
    return tuple(questions)
