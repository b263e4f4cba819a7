"""`flatprobe plan`: a study's stages, and what its design can detect; runs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flatprobe import console
from flatprobe.cli.options import STANDARD_OUTPUT, check_problems, json_problems, names, put_out, read_filters
from flatprobe.cli.plan_components import Sourced, components_of_cells, given_components, published
from flatprobe.cli.plan_text import Detectable, GeometryForecast, geometry_lines, show
from flatprobe.cli.study import show_stages
from flatprobe.counts.comparison import Comparison
from flatprobe.errors import Problem, UserError
from flatprobe.machine.load import load_machine
from flatprobe.machine.schema import Machine
from flatprobe.prepare import Prepared, prepare
from flatprobe.study.load import examine_study
from flatprobe.study.schema import Study

MULTIPLES = (0.0, 1.0, 1.5, 2.0)
"""True differences for which the registered leg is forecast, in multiples of its margin."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
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


def show_plan(options: PlanOptions) -> None:
    """Print the stages in order with their state, then what the design can detect.

    The second needs no model. If only the stages are unknown (the hub does not answer), it is printed before the
    refusal. A study without a coupling has no leakage to forecast.

    Raises:
        UserError: everything that is wrong with the options, the study and the cells, at once.
    """
    where, problems = read_filters(options.where)
    problems += _option_problems(options)
    sourced, more = _without_study(options)
    problems += more
    loaded, study_problems = examine_study(options.study)
    if loaded is not None and options.from_cells is not None:
        sourced, more = components_of_cells(options.from_cells, where, _comparison(options, loaded.study))
        problems += more
    machine = load_machine(options.machine)
    prepared, unresolved = _prepared(options, machine)
    if loaded is None or study_problems or problems or sourced is None:
        raise UserError([*problems, *(unresolved or study_problems)])
    if prepared is not None and options.json != STANDARD_OUTPUT:
        show_stages(prepared, only_unfinished=False)
    folder = (options.runs or Path(machine.runs)) / loaded.study.name
    if loaded.study.coupling is None:
        forecast = _geometry(options, loaded.study, folder, loaded.study.questions.evaluation.count)
        if not put_out(json.dumps({"geometry": asdict(forecast)}, indent=1, allow_nan=False), options.json):
            for line in geometry_lines(forecast, options.power):
                console.say(line)
    else:
        _put_out(_detectable(options, loaded.study, folder, sourced), options.json)
    if unresolved:
        raise UserError(unresolved)


def _prepared(options: PlanOptions, machine: Machine) -> tuple[Prepared | None, Sequence[Problem]]:
    try:
        return prepare(options.study, machine, options.runs), []
    except UserError as error:
        return None, error.problems


def _put_out(detectable: Detectable, path: Path | None) -> None:
    numbers = asdict(detectable)
    numbers.update(numbers.pop("sourced"))  # `components` and `source` at the top level
    if not put_out(json.dumps(numbers, indent=1, allow_nan=False, ensure_ascii=False), path):
        show(detectable)


def _without_study(options: PlanOptions) -> tuple[Sourced | None, list[Problem]]:
    if options.from_cells is not None:
        return None, []
    return (published(), []) if options.components is None else given_components(options.components)


def _option_problems(options: PlanOptions) -> list[Problem]:
    alpha, power = options.alpha, options.power
    problems = check_problems(
        (0 < value < 1, option, f"{value} is not between 0 and 1", remedy)
        for option, value, remedy in (("--alpha", alpha, "5 % are 0.05"), ("--power", power, "80 % are 0.8"))
    )
    if not problems and power <= alpha:
        message = f"{power} is no more than alpha, {alpha}"
        problems.append(Problem("options.power", "--power", message, "without any effect the power is alpha"))
    if options.components is not None and options.from_cells is not None:
        message = "--from-cells is given too"
        problems.append(Problem("options.components", "--components", message, "give one of them"))
    about_cells = {
        "--treated": options.treated,
        "--control": options.control,
        "--bystanders": options.bystanders,
        "--where": options.where,
    }
    if options.from_cells is None:
        problems += [
            Problem("options.without_cells", option, "applies to --from-cells only", "give --from-cells too")
            for option, value in about_cells.items()
            if value
        ]
    return problems + json_problems(options.json, [options.study, options.machine, options.from_cells])


def _comparison(options: PlanOptions, study: Study) -> Comparison:
    """The conditions and personas to look for in the cells; the defaults are the study's."""
    rule, pool = study.decision, names(options.bystanders) or study.panel.bystanders
    return Comparison(options.treated or rule.treated, options.control or rule.control, pool)


def _detectable(options: PlanOptions, study: Study, folder: Path, sourced: Sourced) -> Detectable:
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
        alpha=options.alpha,
        power=options.power,
        margin=leg.margin,
        p_below=leg.p_below,
        deciding=leg.estimator,
        forecasts=forecasts(
            design, components, margin=leg.margin, p_below=leg.p_below, alpha=options.alpha, power=options.power
        ),
        leg=leg_forecasts(
            design, components, estimator=leg.estimator, margin=leg.margin, p_below=leg.p_below, truths=truths
        ),
        needs=[
            need
            for estimator in crossed
            for need in designs_reaching(
                options.power, design, components, effect=leg.margin, alpha=options.alpha, estimator=estimator
            )
        ],
        geometry=_geometry(options, study, folder, design.questions),
    )


def _geometry(options: PlanOptions, study: Study, folder: Path, questions: int) -> GeometryForecast:
    """The deciding measure's standard error in an earlier run, rescaled to this number of questions."""
    from scipy.special import ndtri

    leg = study.decision.geometry
    floor = min(1.0, 2 / (study.geometry.resamples + 1))
    run = options.from_cells if options.from_cells is not None and options.from_cells.is_dir() else folder
    path = run / "analysis" / "estimates.json"
    row = _earlier(path, study)
    if row is None:
        note = f"{path} has no estimate of it" if path.is_file() else f"no finished run in {run}"
        return GeometryForecast(leg.measure, floor, leg.threshold, None, None, note)
    error = row["standard_error"] * (row["n_questions"] / questions) ** 0.5
    mde = float(ndtri((1 + leg.level) / 2) + ndtri(options.power)) * error
    note = f"of {row['contrast']} in {path}, {row['n_questions']} questions"
    return GeometryForecast(leg.measure, floor, leg.threshold, error, mde, note)


def _earlier(path: Path, study: Study) -> Mapping[str, Any] | None:
    """The registered geometric estimate of an earlier run. None without a standard error."""
    if not path.is_file():
        return None
    rule, leg = study.decision, study.decision.geometry
    registered = {
        "quantity": leg.measure,
        "contrast": f"{rule.treated} - {rule.control}",
        "estimator": "question_bootstrap",
        "position": leg.position,
        "responses": leg.responses,
        "layer": None,
        "seed": None,
    }
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        matching = [row for row in rows if all(row[key] == value for key, value in registered.items())]
        with_error = [row for row in matching if row["standard_error"] is not None and row["n_questions"]]
    except (ValueError, KeyError, TypeError) as error:
        remedy = "run `flatprobe report` again"
        raise UserError.one("run.estimates", str(path), "does not hold a run's estimates", remedy) from error
    return with_error[0] if with_error else None
