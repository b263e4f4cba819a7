"""`flatprobe simulate`: error rates of every estimator and of the joint verdict in studies with a known truth."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flatprobe import console
from flatprobe.cli.options import check_problems, json_problems, names, put_out
from flatprobe.errors import Problem, UserError
from flatprobe.simulation.cells import StudySize
from flatprobe.simulation.grid import REGIMES, Grid, Simulated, grid_problems, simulate
from flatprobe.simulation.table import Table, joint_table, leakage_table, points
from flatprobe.simulation.truth import calibrate, regime
from flatprobe.statistics.planning.components import Components


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """The command line; None where an option was left out."""

    study: Path | None
    studies: int
    personas: int | None
    questions: int | None
    completions: int | None
    resamples: int
    variance: Sequence[str] | None
    truth: Sequence[str] | None
    joint: bool
    seed: int
    jobs: int | None
    json: Path | None


def run_simulation(options: SimulateOptions) -> None:
    """Simulate the grid and print a table per probe: leakage by estimator, and the joint verdict.

    Raises:
        UserError: everything that is wrong with the options and the study, at once.
    """
    grid, problems = _grid(options)
    problems += [Problem(p.code, f"--{p.place}", p.message, p.remedy) for p in grid_problems(grid)]
    jobs = (os.cpu_count() or 1) if options.jobs is None else options.jobs
    problems += check_problems([(jobs >= 1, "--jobs", f"{jobs} is too small", "at least 1")])
    problems += json_problems(options.json, [options.study])
    if problems:
        raise UserError(problems)
    with _progress() as done:
        simulated = simulate(grid, jobs, done)
    if not put_out(json.dumps(to_json(grid, simulated), indent=2, allow_nan=False), options.json):
        _show(grid, simulated)


def to_json(grid: Grid, simulated: Simulated) -> dict[str, object]:
    """The grid, the variance components of its regimes, and every row."""
    settings = {
        "studies": grid.studies,
        **asdict(grid.size),
        "resamples": grid.resamples,
        "seed": grid.seed,
        "rule": grid.rule.model_dump(mode="json"),
    }
    components = {
        name: {key: value for key, value in asdict(calibrate(regime(name), 0.0).components()).items() if key != "notes"}
        for name in grid.variances
    }
    return {
        "settings": settings,
        "variance_components": components,
        "leakage": [row.to_json() for row in simulated.leakage],
        "joint": [row.to_json() for row in simulated.joint],
    }


def _grid(options: SimulateOptions) -> tuple[Grid, list[Problem]]:
    """The grid of the options, and problems; what cannot be read is left out."""
    from flatprobe.study.load import examine_study

    given = {"personas": options.personas, "questions": options.questions, "completions": options.completions}
    size, rule = StudySize(), Grid().rule
    problems: list[Problem] = []
    if options.study is not None:
        loaded, problems = examine_study(options.study)
        if loaded is not None:
            study = loaded.study
            counts = (len(study.panel.bystanders), study.questions.evaluation.count, study.leakage.samples)
            size, rule = StudySize(*counts), study.decision
    truths, unreadable = Grid().truths, list[Problem]()
    if options.truth is not None:
        truths, unreadable = _numbers(options.truth)
    grid = Grid(
        studies=options.studies,
        size=StudySize(**{**asdict(size), **{name: count for name, count in given.items() if count is not None}}),
        resamples=options.resamples,
        variances=names(options.variance) if options.variance is not None else REGIMES,
        truths=truths if truths or not unreadable else Grid().truths,
        joint=options.joint,
        seed=options.seed,
        rule=rule,
    )
    return grid, [*problems, *unreadable]


def _numbers(lists: Sequence[str]) -> tuple[tuple[float, ...], list[Problem]]:
    numbers: list[float] = []
    problems: list[Problem] = []
    for word in names(lists):
        try:
            numbers.append(float(word))
        except ValueError:
            message, remedy = f"{word!r} is not a number", "differences of rates, as 0,0.15,0.30"
            problems.append(Problem("options.truth", "--truth", message, remedy))
    return tuple(numbers), problems


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error if it is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    where = console.console(stderr=True)
    columns = (TextColumn("studies", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=where, transient=True, disable=not where.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda finished, total: bar.update(task, completed=finished, total=total)


def _show(grid: Grid, simulated: Simulated) -> None:
    size, margin = grid.size, 100 * grid.rule.behaviour.margin
    console.say(
        f"{grid.studies} studies per row: {size.personas} personas x {size.questions} questions x "
        f"{size.completions} completions, {grid.resamples} resamples, seed {grid.seed}."
    )
    for name in grid.variances:
        console.say(f"variance {name}: SD of the true difference in pp: {_deviations(regime(name))}")
    console.say()
    _print("Leakage difference by estimator", leakage_table(simulated.leakage))
    for line in (
        "Shares of studies, with Monte Carlo standard errors in brackets. Truth, bias, SE and SD are in pp.",
        "p: share of studies rejected at that level: size at truth 0, power elsewhere.",
        f"superior: share rejected at .05 by the one-sided test against {margin:g} pp.",
        "covers truth: share of 95 % intervals with the population's difference; covers own: with the difference in",
        "the estimator's scope. SE: mean reported standard error; SD: standard deviation of the estimates.",
    ):
        console.say(line)
    if simulated.joint:
        console.say()
        _print("Joint verdict by truth, if every gate passes", joint_table(simulated.joint))


def _deviations(components: Components) -> str:
    parts = (
        ("persona", components.persona),
        ("question", components.question),
        ("interaction", components.interaction),
    )
    return ", ".join(f"{name} {points(variance**0.5)}" for name, variance in parts)


def _print(title: str, table: Table) -> None:
    console.table(table.columns, table.rows, title=title, right=table.columns[table.words :])
