"""Geometry of two checkpoints: a study without a coupling, made of arguments instead of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from flatprobe.config.blocks import RESPONSES
from flatprobe.config.suggest import did_you_mean
from flatprobe.config.validation import explain
from flatprobe.config.yaml_file import Document, FieldPath
from flatprobe.errors import Problem, UserError
from flatprobe.machine.schema import Machine
from flatprobe.models.pinned import Pins, read_pins, write_pins
from flatprobe.models.reference import describing_folder, read_config, resolve
from flatprobe.pipeline.stage import canonical_json
from flatprobe.prepare import announce_conversion, planned, resolve_checked, run_prepared
from flatprobe.study import resources
from flatprobe.study.checks.every_check import study_problems
from flatprobe.study.decision_schema import GeometricLeg
from flatprobe.study.load import load_study, read_panel_file, read_questions_file
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import PersonaEntry
from flatprobe.study.questions import Question, SetName, normalised
from flatprobe.study.recipe_schema import Precision
from flatprobe.study.resolve import Resolved
from flatprobe.study.schema import Geometry, Panel, Questions, Study

if TYPE_CHECKING:
    import polars as pl

    from flatprobe.pipeline.display import Display

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


@dataclass(frozen=True)
class CheckpointComparison:
    """What `compare_checkpoints` returns."""

    rows: pl.DataFrame
    """A row per measure, layer, position, responses and persona: levels of `base` and `treated`, `difference`, interval
    and p; the columns are those of `analysis.comparison_rows.Row`."""
    identical: bool
    """Whether all states of both checkpoints are equal, so that every difference is exactly 0."""
    conclusion: tuple[str, ...]
    """What changed, and what limits the reading; a sentence each."""
    folder: Path
    """The run folder."""
    page: Path
    """The report."""


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """What `compare_checkpoints` was called with."""

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


def compare_checkpoints(
    base: str,
    treated: str | None = None,
    *,
    adapter: str | None = None,
    panel: Path | None = None,
    questions: Path | None = None,
    source: str = Panel.model_fields["source"].default,
    bystanders: Sequence[str] | None = None,
    layers: Sequence[int] | Literal["auto", "all"] = "auto",
    positions: Sequence[str] = POSITIONS,
    responses: Sequence[str] = RESPONSES,
    samples: int = 1,
    max_new_tokens: int = 256,
    suffix: str = "",
    n_questions: int | None = None,
    resamples: int | None = None,
    level: float | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    machine: Machine | None = None,
    out: Path | None = None,
    display: Display | None = None,
    problems: Iterable[Problem] = (),
) -> CheckpointComparison:
    """Compare the personas' hidden states in two checkpoints of one chat model.

    It runs a study without a coupling. Finished stages in the run folder are reused, so other layers, positions or
    resamples need no new answers. Workers are spawned, so a script calls this under `if __name__ == "__main__":`.

    Example:
        >>> comparison = compare_checkpoints("base-model", "finetuned-model", layers=[6, 14])  # doctest: +SKIP
        >>> comparison.rows.filter(measure="contraction", layer=14, position="response_mean")  # doctest: +SKIP

    Args:
        base: A chat model: folder, hub id OWNER/NAME[@REVISION], or embedded:NAME.
        treated: The other checkpoint, likewise.
        adapter: A PEFT adapter of the base (folder or hub id) in place of `treated`.
        panel: A panel file; None is the package's.
        questions: A questions file (its evaluation set), or a .txt with a question per line; None is the package's.
        source: The persona that distances are measured to.
        bystanders: The other personas. None: the registered study's, or all of your panel but source and references.
        layers: 0-based decoder blocks, "all", or "auto" (the registered layers at the same relative depth).
        positions: Token positions that are read.
        responses: Whose answers states are read on: "own", "fixed" (the base's), or both.
        samples: Own answers per question: 1 is greedy; several are sampled and their states averaged.
        max_new_tokens: Limit of an answer.
        suffix: Text appended to every question.
        n_questions: Questions taken from the top; None: 20, or all if there are fewer.
        resamples: Question resamples; None is the registered number.
        level: Confidence level of the intervals; None is the registered one.
        seed: Seed of sampling and resampling.
        precision: Arithmetic of the models.
        machine: How to run; never changes a number.
        out: Run folder; None: one per pair of checkpoints in `machine.runs`.
        display: Shows progress; None shows nothing.
        problems: What the caller knows to be wrong already; raised together with all other problems.

    Returns:
        Rows with the levels of both checkpoints and treated - base (for ratios, treated / base).

    Raises:
        UserError: everything that is wrong, at once, before weights are read. Problems are placed at the options of
            `flatprobe geometry`.
    """
    from flatprobe.report.analysis_folder import read
    from flatprobe.report.comparison import conclusion

    arguments = _Arguments(
        base=base,
        treated=treated,
        adapter=adapter,
        panel=panel,
        questions=questions,
        source=source,
        bystanders=bystanders,
        layers=layers,
        positions=positions,
        responses=responses,
        samples=samples,
        max_new_tokens=max_new_tokens,
        suffix=suffix,
        n_questions=n_questions,
        resamples=resamples,
        level=level,
        seed=seed,
        precision=precision,
    )
    machine = machine or Machine()
    pins = read_pins(out or Path(machine.runs))
    if out is None:  # in a shared folder, commits of unpinned names would outlive their comparison
        pins = Pins(folders=pins.folders)
    loaded, resolved = _checked(arguments, pins, list(problems))
    write_pins(pins, out or Path(machine.runs))
    folder = out or Path(machine.runs) / f"geometry-{_digest(resolved)}"
    _, page = run_prepared(planned(loaded, resolved, machine, folder), display)
    analysis = read(folder / "analysis")
    return CheckpointComparison(
        rows=_frame(row for row in analysis.comparison["rows"] if row["responses"] in responses),
        identical=analysis.comparison["identical"],
        conclusion=tuple(conclusion(analysis)),
        folder=folder,
        page=page,
    )


def automatic_layers(depth: int) -> tuple[int, ...]:
    """The registered layers at the same relative depth of a model with `depth` blocks, each once."""
    shares = [(layer + 1) / REGISTERED_DEPTH for layer in Geometry().layers]
    return tuple(dict.fromkeys(max(0, int(share * depth + 0.5) - 1) for share in shares))


def registered_bystanders() -> tuple[str, ...]:
    """The bystanders of the registered study."""
    return load_study(resources.shipped_study("em_flattening")).study.panel.bystanders


# --- the study


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


def _checked(arguments: _Arguments, pins: Pins, problems: list[Problem]) -> tuple[LoadedStudy, Resolved]:
    """The study with everything that it names identified.

    Raises:
        UserError: all problems that can be found without weights.
    """
    panel = arguments.panel or resources.path("panel.yaml")
    entries = read_panel_file(panel, "--panel", problems)
    questions = _questions(arguments.questions, problems)
    if (arguments.treated is None) == (arguments.adapter is None):
        message = "give a second checkpoint or an adapter of BASE, one of the two"
        remedy = "--adapter FOLDER replaces TREATED"
        problems.append(Problem("geometry.treated", "TREATED", message, remedy))
    problems += [
        Problem("geometry.responses", "--responses", f"{name}: unknown", did_you_mean(name, RESPONSES))
        for name in arguments.responses
        if name not in RESPONSES
    ]
    choices = {
        "--responses": (arguments.responses, RESPONSES),
        "--positions": (arguments.positions, POSITIONS),
    }
    problems += [
        Problem("list.empty", option, "an empty list", f"there is {', '.join(known)}")
        for option, (given, known) in choices.items()
        if not given
    ]
    content = _content(arguments, entries, len(questions), _depth(arguments, pins))
    sets: dict[SetName, tuple[Question, ...]] = {"coupling": (), "calibration": ()}
    if questions:
        sets["evaluation"] = questions
    loaded = _Loaded(
        study=_fitting(content, problems),
        path=Path("flatprobe geometry"),
        lines={},
        entries=entries,
        questions=sets,
    )
    problems += study_problems(loaded)
    return loaded, resolve_checked(loaded, problems, pins, check_model=True)


def _content(
    arguments: _Arguments, entries: Mapping[str, PersonaEntry], n_questions: int, depth: int | None
) -> dict[str, Any]:
    """The study as the data of a file; without a known depth, layers that are left to the model are `[0]`."""
    panel = Panel.model_fields
    source, pool = arguments.source, arguments.bystanders
    if pool is None:
        known = entries if arguments.panel is not None else registered_bystanders()
        pool = [name for name in known if name != source and name not in panel["references"].default]
    references = [n for n in panel["references"].default if n in entries and n not in (source, *pool)]
    layers: Sequence[int]
    if arguments.layers in ("auto", "all"):
        every = range(depth or 1)
        layers = every if arguments.layers == "all" else automatic_layers(len(every))
    else:
        layers = sorted({int(layer) for layer in arguments.layers})
    positions = list(dict.fromkeys(arguments.positions)) or list(POSITIONS)
    known_positions = [name for name in positions if name in POSITIONS]
    position: str = GeometricLeg().position
    given = {"samples": arguments.samples, "max_new_tokens": arguments.max_new_tokens}
    if arguments.resamples is not None:
        given["resamples"] = arguments.resamples
    leg: dict[str, Any] = {"responses": "fixed" if tuple(arguments.responses) == ("fixed",) else "own"}
    if known_positions and position not in known_positions:
        position = known_positions[0]
    if arguments.level is not None:
        leg["level"] = arguments.level
    most = min(Questions().evaluation.count, n_questions) or 1
    treated = arguments.treated or arguments.adapter
    return {
        "name": "geometry",
        "description": f"{treated} against {arguments.base}",
        "model": _named("id", arguments.base) | {"dtype": arguments.precision},
        "seeds": [arguments.seed],
        "panel": {
            "file": str(arguments.panel) if arguments.panel is not None else None,
            "source": source,
            "negatives": [],
            "random_negatives": 0,
            "bystanders": list(pool),
            "references": references,
        },
        "questions": {
            "evaluation": {
                "count": most if arguments.n_questions is None else arguments.n_questions,
                "suffix": arguments.suffix,
            }
        },
        "conditions": {
            "base": {},
            "treated": _named("checkpoint", arguments.treated)
            if arguments.treated is not None
            else _named("adapter", arguments.adapter),
        },
        "coupling": None,
        "leakage": {"precision": arguments.precision},
        "geometry": {"layers": list(layers), "positions": positions, **given},
        "decision": {
            "treated": "treated",
            "control": "base",
            "benign": None,
            "geometry": {"position": position, **leg},
        },
    }


def _named(field: str, text: str | None) -> dict[str, Any]:
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


def _depth(arguments: _Arguments, pins: Pins) -> int | None:
    """Decoder blocks of the base. None if its configuration cannot be read, which the model's checks report."""
    if arguments.layers not in ("auto", "all"):
        return None
    name = _named("id", arguments.base)
    try:
        located = resolve(name["id"], name["revision"], "BASE", pins)
        announce_conversion(located.reference)
        folder = describing_folder(located.reference, located.location)
        return int(read_config(folder, "BASE")["num_hidden_layers"])
    except (UserError, KeyError, TypeError, ImportError):
        return None


def _questions(file: Path | None, problems: list[Problem]) -> tuple[Question, ...]:
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
            problems.append(
                Problem("questions.same_text", f"{path}:{number}", f"asks the question of line {before}")
            )
        questions.append(Question(id=f"line_{number}", kind="factual", text=line.strip()))
    if not questions:
        problems.append(
            Problem("questions.empty", str(path), "holds no question", "write a question per line")
        )
    return tuple(questions)


# --- the result


def _digest(resolved: Resolved) -> str:
    """Of the checkpoints alone, so that comparisons of the same two share a folder and its finished stages."""
    given = resolved.given.get("treated")
    is_adapter = resolved.study.conditions["treated"].adapter is not None
    sides = (resolved.model, None if is_adapter else given, given if is_adapter else None)
    references = [None if reference is None else reference.model_dump() for reference in sides]
    return hashlib.sha256(canonical_json(references).encode()).hexdigest()[:12]


def _frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)
