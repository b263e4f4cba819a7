"""`flatprobe geometry`: the geometric probe on any two checkpoints, without the rest of the experiment."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flatprobe import console
from flatprobe.cli import geometry_options as options
from flatprobe.cli.options import output_problems
from flatprobe.errors import Problem, UserError
from flatprobe.machine.load import load_machine
from flatprobe.machine.schema import Machine
from flatprobe.models.pinned import Memory, read_memory, write_memory
from flatprobe.models.reference import (
    DESCRIBING_SUFFIXES,
    Located,
    fetch,
    read_config,
    resolve,
)
from flatprobe.pipeline.stage import canonical_json
from flatprobe.study.checks.packages import EXTRAS
from flatprobe.study.decision_schema import GeometricLeg
from flatprobe.study.pair import Pair
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.schema import Geometry

if TYPE_CHECKING:
    from flatprobe.models.conversation import Conversations

STANDARD_OUTPUT = Path("-")
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line; None where an option was left out."""

    base: str
    treated: str | None
    adapter: str | None
    panel: Path | None
    questions: Path | None
    source: str
    bystanders: str | None
    layers: str
    positions: str
    responses: str
    samples: int
    max_new_tokens: int
    suffix: str
    n_questions: int | None
    resamples: int | None
    level: float | None
    seed: int
    precision: Precision
    machine: Path | None
    out: Path | None
    json: Path | None


@dataclass
class _Found:
    """What was found out about the two checkpoints, filled step by step; problems are collected, not raised."""

    problems: list[Problem] = field(default_factory=list)
    located: dict[str, Located] = field(default_factory=dict)
    """`base`, `treated`, `adapter`: those given that exist."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    conversations: dict[str, Conversations] = field(default_factory=dict)


def geometry(request: Request) -> None:
    """Compare two checkpoints, print the result, and write rows and page into the run folder.

    Raises:
        UserError: everything that is wrong with the options and with the two models' files, at once; nothing is run
            and nothing is written then.
    """
    machine = load_machine(request.machine)
    memory = _memory(request, machine)
    pair, locations = _prepare(request, memory)
    write_memory(memory, _memory_folder(request, machine))
    folder = request.out or Path(machine.runs) / f"geometry-{_digest(pair)}"
    _run(request, pair, machine, locations, folder)


def _prepare(request: Request, memory: Memory) -> tuple[Pair, dict[str, str]]:
    """Everything checked that can be without weights; and where local models lie."""
    if missing := [name for name in EXTRAS["models"] if find_spec(name) is None]:
        raise UserError.one(
            "geometry.TODO",
            "flatprobe geometry",
            f"needs {', '.join(missing)}, not installed here",
            "pip install 'flatprobe[models]'",
        )
    found = _Found(problems=_number_problems(request))
    if request.json is not None and request.json != STANDARD_OUTPUT:
        found.problems += output_problems("--json", request.json, [])
    personas = options.read_personas(request.panel, request.source, request.bystanders, found.problems)
    questions = options.read_asked(request.questions, request.n_questions, request.suffix, found.problems)
    positions = options.read_positions(request.positions, found.problems)
    responses = options.read_responses(request.responses, found.problems)
    _locate(request, memory, found)
    _read_models(found)
    layers = _check_models(request, found, personas, questions)
    if found.problems:
        raise UserError(found.problems)
    located = found.located
    other = {name: located[name].reference if name in located else None for name in ("treated", "adapter")}
    pair = Pair(
        base=located["base"].reference, treated=other["treated"], adapter=other["adapter"], personas=personas,
        questions=questions, layers=layers, positions=positions, responses=responses, samples=request.samples,
        max_new_tokens=request.max_new_tokens, resamples=request.resamples or Geometry().resamples,
        level=request.level or GeometricLeg().level, seed=request.seed, precision=request.precision,
    )  # fmt: skip
    locations = {x.reference.fingerprint: x.location for x in located.values() if x.location is not None}
    return pair, locations


def _number_problems(request: Request) -> list[Problem]:
    level, resamples = request.level, request.resamples
    checks = (
        (request.samples >= 1, "--samples", f"{request.samples} answers", "at least 1"),
        (request.max_new_tokens >= 1, "--max-new-tokens", f"{request.max_new_tokens} tokens", "at least 1"),
        (resamples is None or resamples >= 1, "--resamples", f"{resamples} draws", "at least 1"),
        (level is None or 0 < level < 1, "--level", f"{level} is not in (0, 1)", "95 % are 0.95"),
        (request.seed >= 0, "--seed", f"{request.seed} is negative", "0 or a positive whole number"),
        (
            (request.treated is None) != (request.adapter is None), "TREATED",
            "give a second checkpoint or an adapter of BASE, one of the two", "--adapter FOLDER takes TREATED's place",
        ),
    )  # fmt: skip
    return [
        Problem("geometry.TODO", option, message, remedy)
        for right, option, message, remedy in checks
        if not right
    ]


# --- the two checkpoints


def _memory_folder(request: Request, machine: Machine) -> Path:
    return request.out or Path(machine.runs)


def _memory(request: Request, machine: Machine) -> Memory:
    """What need not be asked or hashed again; commits of unpinned names are kept in a folder of the user's choice
    only, for in the common one they would outlive the comparison that they were meant for."""
    memory = read_memory(_memory_folder(request, machine))
    return memory if request.out is not None else Memory(folders=memory.folders)


def _locate(request: Request, memory: Memory, found: _Found) -> None:
    given = {"base": ("BASE", request.base), "treated": ("TREATED", request.treated)}
    given["adapter"] = ("--adapter", request.adapter)
    for name, (place, text) in given.items():
        if text is None:
            continue
        id, _, revision = (text, "", "") if Path(text).expanduser().is_dir() else text.partition("@")
        try:
            found.located[name] = resolve(id, revision or None, place, memory)
        except UserError as error:
            found.problems += error.problems


def _describing_folder(located: Located) -> Path:
    """A folder with configuration and tokenizer; fetches or converts what is not here yet."""
    if located.location is not None:
        return Path(located.location)
    if located.reference.kind == "hub":
        return fetch(located.reference.id, located.reference.fingerprint, DESCRIBING_SUFFIXES)
    from flatprobe.models.embedded import is_converted

    if not is_converted():
        console.warn("converting the embedded model once (about half a minute)")
    return located.reference.path()


def _read_models(found: _Found) -> None:
    """Configurations and chat templates of both models, as far as they can be read."""
    from flatprobe.models.conversation import load_conversations
    from flatprobe.models.fit import architecture_problems

    for name, place in (("base", "BASE"), ("treated", "TREATED")):
        if name not in found.located:
            continue
        located = found.located[name]
        try:
            folder = _describing_folder(located)
            if problems := architecture_problems(folder, place):
                raise UserError(problems)
            found.configs[name] = read_config(folder, place)
            found.conversations[name] = load_conversations(folder, located.reference.id, place)
        except UserError as error:
            found.problems += error.problems


def _check_models(
    request: Request, found: _Found, personas: tuple[Persona, ...], questions: tuple[Question, ...]
) -> tuple[int, ...]:
    """Problems of the models with each other and with what is asked; returns the layers."""
    from flatprobe.models import fit
    from flatprobe.study.checks import compatibility

    config, conversations = found.configs.get("base"), found.conversations.get("base")
    if config is None:
        return ()
    layers = options.read_layers(request.layers, config["num_hidden_layers"], found.problems)
    found.problems += compatibility.layer_problems(layers, config["num_hidden_layers"])
    if conversations is not None:
        found.problems += compatibility.prompt_problems(
            conversations, personas, questions, fit.context_length(config), request.max_new_tokens
        )
    if "adapter" in found.located:
        adapter = found.located["adapter"]
        folder = Path(adapter.location) if adapter.location is not None else adapter.reference.path()
        found.problems += fit.adapter_problems(folder, config, "--adapter", "BASE")
    if "treated" in found.configs:
        found.problems += fit.size_problems(found.configs["treated"], config, "TREATED", "BASE")
    if conversations is not None and "treated" in found.conversations:
        treated = found.conversations["treated"]
        systems = {persona.name: persona.system for persona in personas}
        texts = [question.text for question in questions]
        problems = fit.rendering_problems(treated, conversations, systems, texts, "TREATED", "BASE")
        found.problems += problems
        if not problems and not fit.same_template(conversations, treated):
            console.warn("the chat templates differ in their text, but write all these prompts alike")
    return layers


# --- the run


def _digest(pair: Pair) -> str:
    """Of the checkpoints alone: comparisons of the same two share a folder, and with it what is finished."""
    references = [None if x is None else x.model_dump() for x in (pair.base, pair.treated, pair.adapter)]
    return hashlib.sha256(canonical_json(references).encode()).hexdigest()[:12]


def _run(request: Request, pair: Pair, machine: Machine, locations: dict[str, str], folder: Path) -> None:
    from flatprobe.cli.geometry_text import show
    from flatprobe.cli.headroom import print_pair_headroom
    from flatprobe.pipeline.display import display_for_people
    from flatprobe.pipeline.runner import run
    from flatprobe.plan.comparison import plan_pair
    from flatprobe.prepare import runner_settings
    from flatprobe.report.comparison import Compared
    from flatprobe.report.pages.comparison import write_page

    plan = plan_pair(pair)
    display = display_for_people()
    on_finished = print_pair_headroom(pair, plan.base_states, display)
    try:
        summary = run(
            [plan.geometry], folder, runner_settings(machine, locations), display, on_finished=on_finished
        )
    except UserError as error:
        error.add_note("finished stages are kept, and the same command goes on from there")
        raise
    found = {
        name: summary.artifacts[stage.name].folder
        for name, stage in (
            ("base", plan.base_states),
            ("treated", plan.treated_states),
            ("pair", plan.geometry),
        )
    }
    compared = Compared.read(pair, found)
    page = folder / "geometry.html"
    write_page(compared, page)
    text = json.dumps(list(compared.rows), indent=1, allow_nan=False)
    (folder / "geometry.json").write_text(text + "\n", encoding="utf-8")
    if request.json == STANDARD_OUTPUT:
        console.say(text)
        return
    if request.json is not None:
        request.json.write_text(text + "\n", encoding="utf-8")
    show(compared)
    console.say(f"All numbers: {folder / 'geometry.json'}; page: {page}")
