"""`flatprobe plan`: the stages of a study, and what its design can detect, before any compute."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flatprobe import console
from flatprobe.cli import study as commands
from flatprobe.cli.options import output_problems
from flatprobe.cli.plan_components import Sourced, components_of_cells, given_components, published
from flatprobe.cli.plan_text import Detectable, Geometry, show
from flatprobe.counts.cell_files import Where
from flatprobe.counts.comparison import Comparison
from flatprobe.errors import Problem, UserError
from flatprobe.machine.load import load_machine
from flatprobe.machine.schema import Machine
from flatprobe.prepare import Prepared, prepare
from flatprobe.study.load import examine_study
from flatprobe.study.schema import Study

STANDARD_OUTPUT = Path("-")
MULTIPLES = (0.0, 1.0, 1.5, 2.0)
"""True differences at which the registered leg is looked at, in multiples of its margin."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line; None where an option was left out."""

    study: Path
    machine: Path | None = None
    runs: Path | None = None
    alpha: float = 0.05
    power: float = 0.8
    components: str | None = None
    """`persona=…,question=…,interaction=…,completion=…[,seed=…]`: variances."""
    from_cells: Path | None = None
    """A file of cells, or a finished run's folder."""
    where: Sequence[str] = ()
    treated: str | None = None
    control: str | None = None
    bystanders: Sequence[str] = ()
    """Names, or lists of names separated by commas."""
    json: Path | None = None


def show_plan(request: Request) -> None:
    """Print the stages in order with their state, then what the design can detect.

    The second needs no model: where only the stages cannot be had (a hub that does not answer), it is printed before
    the refusal.

    Raises:
        UserError: everything that is wrong with the options, the study and the cells, at once.
    """
    where, problems = _filters(request.where)
    problems += _option_problems(request)
    sourced, more = _without_study(request)
    problems += more
    loaded, of_study = examine_study(request.study)
    if loaded is not None and request.from_cells is not None:
        sourced, more = components_of_cells(request.from_cells, where, _comparison(request, loaded.study))
        problems += more
    machine = load_machine(request.machine)
    prepared, unresolved = _prepared(request, machine)
    if loaded is None or of_study or problems or sourced is None:
        raise UserError([*problems, *(unresolved or of_study)])
    folder = (request.runs or Path(machine.runs)) / loaded.study.name
    found = _detectable(request, loaded.study, folder, sourced)
    if prepared is not None and request.json != STANDARD_OUTPUT:
        commands.show_stages(prepared, only_unfinished=False)
    _put_out(found, request.json)
    if unresolved:
        raise UserError(unresolved)


def _prepared(request: Request, machine: Machine) -> tuple[Prepared | None, Sequence[Problem]]:
    try:
        return prepare(request.study, machine, request.runs), []
    except UserError as error:
        return None, error.problems


def _put_out(found: Detectable, path: Path | None) -> None:
    numbers = asdict(found)
    numbers.update(numbers.pop("sourced"))  # `components` and `source` beside the rest
    document = json.dumps(numbers, indent=1, allow_nan=False, ensure_ascii=False)
    if path == STANDARD_OUTPUT:
        console.say(document)
        return
    if path is not None:
        path.write_text(document + "\n", encoding="utf-8")
    show(found)


def _without_study(request: Request) -> tuple[Sourced | None, list[Problem]]:
    if request.from_cells is not None:
        return None, []
    return (published(), []) if request.components is None else given_components(request.components)


def _option_problems(request: Request) -> list[Problem]:
    problems = [
        Problem("plan.TODO", option, f"{value} is not between 0 and 1", remedy)
        for option, value, remedy in (
            ("--alpha", request.alpha, "5 % are 0.05"),
            ("--power", request.power, "80 % are 0.8"),
        )
        if not 0 < value < 1
    ]
    if not problems and request.power <= request.alpha:
        message = f"{request.power} is no more than alpha, {request.alpha}"
        problems.append(Problem("plan.TODO", "--power", message, "a test without any effect has that much"))
    if request.components is not None and request.from_cells is not None:
        problems.append(Problem("plan.TODO", "--components", "--from-cells is given too", "give one of them"))
    about_cells = {
        "--treated": request.treated, "--control": request.control, "--bystanders": request.bystanders,
        "--where": request.where,
    }  # fmt: skip
    if request.from_cells is None:
        problems += [
            Problem("plan.TODO", option, "there are no cells to choose from", "give --from-cells too")
            for option, value in about_cells.items()
            if value
        ]
    if request.json is not None and request.json != STANDARD_OUTPUT:
        read = [path for path in (request.study, request.machine, request.from_cells) if path is not None]
        problems += output_problems("--json", request.json, read)
    return problems


def _filters(where: Sequence[str]) -> tuple[list[Where], list[Problem]]:
    parts = {text: tuple(piece.strip() for piece in text.partition("=")) for text in where}
    right = [Where(column, value) for column, equals, value in parts.values() if column and equals]
    wrong = [text for text, (column, equals, _) in parts.items() if not (column and equals)]
    return right, [
        Problem("plan.TODO", "--where", f"`{text}` is no filter", "write it as lambda=1") for text in wrong
    ]


def _comparison(request: Request, study: Study) -> Comparison:
    """What is looked for in the cells: the study's conditions and bystanders where nothing else is named."""
    rule = study.decision
    named = tuple(name.strip() for names in request.bystanders for name in names.split(",") if name.strip())
    return Comparison(
        request.treated or rule.treated, request.control or rule.control, named or study.panel.bystanders
    )


def _detectable(request: Request, study: Study, folder: Path, sourced: Sourced) -> Detectable:
    from flatprobe.statistics.planning.forecasts import designs_reaching, forecasts, leg_forecasts
    from flatprobe.statistics.planning.mean_squares import Design

    components = sourced.components
    leg = study.decision.behaviour
    design = Design(
        personas=len(study.panel.bystanders),
        questions=study.questions.evaluation.count,
        completions=study.leakage.samples,
        seeds=len(study.seeds),
        resamples=leg.resamples,
    )
    truths = [multiple * leg.margin for multiple in MULTIPLES if multiple * leg.margin <= 1]
    crossed = ["crossed_anova", *(["crossed_anova_seed"] if components.seed is not None else [])]
    return Detectable(
        design=design,
        sourced=sourced,
        alpha=request.alpha,
        power=request.power,
        margin=leg.margin,
        p_below=leg.p_below,
        deciding=leg.estimator,
        forecasts=forecasts(
            design, components, margin=leg.margin, p_below=leg.p_below, alpha=request.alpha, power=request.power
        ),
        leg=leg_forecasts(
            design, components, estimator=leg.estimator, margin=leg.margin, p_below=leg.p_below,
            truths=truths,
        ),
        needs=[
            need
            for estimator in crossed
            for need in designs_reaching(
                request.power, design, components, effect=leg.margin, alpha=request.alpha, estimator=estimator
            )
        ],
        geometry=_geometry(request, study, folder, design.questions),
    )  # fmt: skip


def _geometry(request: Request, study: Study, folder: Path, questions: int) -> Geometry:
    """The deciding measure's spread in an earlier run, rescaled to this number of questions."""
    from scipy.special import ndtri

    leg = study.decision.geometry
    floor = min(1.0, 2 / (study.geometry.resamples + 1))
    run = request.from_cells if request.from_cells is not None and request.from_cells.is_dir() else folder
    path = run / "analysis" / "estimates.json"
    row = _earlier(path, study)
    if row is None:
        note = f"{path} has no estimate of it" if path.is_file() else f"no finished run in {run}"
        return Geometry(leg.measure, floor, leg.threshold, None, None, note)
    error = row["standard_error"] * (row["n_questions"] / questions) ** 0.5
    mde = float(ndtri((1 + leg.level) / 2) + ndtri(request.power)) * error
    note = f"of {row['contrast']} in {path}, {row['n_questions']} questions"
    return Geometry(leg.measure, floor, leg.threshold, error, mde, note)


def _earlier(path: Path, study: Study) -> Mapping[str, Any] | None:
    """The registered geometric estimate of an earlier run, or None where it has none with a standard error."""
    if not path.is_file():
        return None
    rule, leg = study.decision, study.decision.geometry
    wanted = {
        "quantity": leg.measure, "contrast": f"{rule.treated} - {rule.control}",
        "estimator": "question_bootstrap", "position": leg.position, "responses": leg.responses,
        "layer": None, "seed": None,
    }  # fmt: skip
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
        spread = [row for row in found if row["standard_error"] is not None and row["n_questions"]]
    except (ValueError, KeyError, TypeError) as error:
        remedy = "`flatprobe report` writes it again"
        raise UserError.one("plan.TODO", str(path), "does not hold a run's estimates", remedy) from error
    return spread[0] if spread else None
