"""`flatprobe simulate`: what every estimator and the joint verdict are worth, by studies with a known truth."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flatprobe import console
from flatprobe.cli.options import output_problems
from flatprobe.errors import Problem, UserError
from flatprobe.simulation.cells import StudySize
from flatprobe.simulation.grid import Grid, Simulated, grid_problems, simulate
from flatprobe.simulation.table import Table, joint_table, leakage_table, points
from flatprobe.simulation.truth import calibrate, regime
from flatprobe.statistics.planning.components import Components

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line; None where an option was left out."""

    study: Path | None
    studies: int
    personas: int | None
    questions: int | None
    completions: int | None
    resamples: int
    variance: str
    truth: str
    joint: bool
    seed: int
    jobs: int | None
    json: Path | None


def run_simulation(request: Request) -> None:
    """Simulate the grid and print a table per probe: leakage by estimator, and the joint verdict.

    Raises:
        UserError: everything that is wrong with the options and the study, at once.
    """
    grid, found = _grid(request)
    found = [*found, *(Problem(p.code, f"--{p.place}", p.message, p.remedy) for p in grid_problems(grid))]
    jobs = (os.cpu_count() or 1) if request.jobs is None else request.jobs
    if jobs < 1:
        found.append(Problem("simulate.TODO", "--jobs", f"{jobs} is too small", "at least 1"))
    if request.json is not None and request.json != STANDARD_OUTPUT:
        inputs = [] if request.study is None else [request.study]
        found += output_problems("--json", request.json, inputs)
    if found:
        raise UserError(found)
    with _progress() as done:
        simulated = simulate(grid, jobs, done)
    text = json.dumps(to_json(grid, simulated), indent=2, allow_nan=False)
    if request.json == STANDARD_OUTPUT:
        console.say(text)
        return
    if request.json is not None:
        request.json.write_text(text + "\n", encoding="utf-8")
    _show(grid, simulated)


def to_json(grid: Grid, simulated: Simulated) -> dict[str, object]:
    """The grid, the variance components of its regimes, and every row."""
    settings = {
        "studies": grid.studies, **asdict(grid.size), "resamples": grid.resamples, "seed": grid.seed,
        "rule": grid.rule.model_dump(mode="json"),
    }  # fmt: skip
    components = {
        name: {
            key: value
            for key, value in asdict(calibrate(regime(name), 0.0).components()).items()
            if key != "notes"
        }
        for name in grid.variances
    }
    return {
        "settings": settings,
        "variance_components": components,
        "leakage": [row.to_json() for row in simulated.leakage],
        "joint": [row.to_json() for row in simulated.joint],
    }


def _grid(request: Request) -> tuple[Grid, list[Problem]]:
    """The grid asked for; what cannot be read of it is a problem and left out."""
    from flatprobe.study.load import examine_study

    given = {"personas": request.personas, "questions": request.questions, "completions": request.completions}
    size, rule = StudySize(), Grid().rule
    found: list[Problem] = []
    if request.study is not None:
        loaded, found = examine_study(request.study)
        if loaded is not None:
            study = loaded.study
            counts = (len(study.panel.bystanders), study.questions.evaluation.count, study.leakage.samples)
            size, rule = StudySize(*counts), study.decision
    truths, unreadable = _numbers(request.truth)
    grid = Grid(
        studies=request.studies,
        size=StudySize(
            **{**asdict(size), **{name: count for name, count in given.items() if count is not None}}
        ),
        resamples=request.resamples,
        variances=_words(request.variance),
        truths=truths if truths or not unreadable else Grid().truths,
        joint=request.joint,
        seed=request.seed,
        rule=rule,
    )
    return grid, [*found, *unreadable]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[tuple[float, ...], list[Problem]]:
    numbers: list[float] = []
    found: list[Problem] = []
    for word in _words(text):
        try:
            numbers.append(float(word))
        except ValueError:
            found.append(
                Problem(
                    "simulate.TODO",
                    "--truth",
                    f"{word!r} is not a number",
                    "differences of rates, as 0,0.15,0.30",
                )
            )
    return tuple(numbers), found


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while studies are simulated; nothing where nobody looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    where = console.console(stderr=True)
    columns = (TextColumn("studies", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=where, transient=True, disable=not where.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda finished, total: bar.update(task, completed=finished, total=total)


def _show(grid: Grid, simulated: Simulated) -> None:
    size, margin = grid.size, 100 * grid.rule.behaviour.margin
    console.say(
        f"{grid.studies} studies per line: {size.personas} personas x {size.questions} questions x "
        f"{size.completions} completions, {grid.resamples} resamples, seed {grid.seed}."
    )
    for name in grid.variances:
        console.say(f"variance {name}: SD of the true difference in pp: {_deviations(regime(name))}")
    console.say()
    _print("Leakage difference by estimator", leakage_table(simulated.leakage))
    for line in (
        "Shares of the studies, in brackets their Monte Carlo standard error; truth, bias, SE and SD in pp.",
        "p: rejected at that level, which is the size at truth 0 and the power elsewhere.",
        f"superior: rejected at .05 by the one-sided test against {margin:g} pp.",
        "covers truth: 95 % intervals that hold the population's difference; covers own: the difference in the",
        "estimator's own scope. SE: mean of those reported; SD: of the estimates over studies.",
    ):
        console.say(line)
    if simulated.joint:
        console.say()
        _print("Joint verdict by what is true; every gate passes", joint_table(simulated.joint))


def _deviations(components: Components) -> str:
    parts = (
        ("persona", components.persona),
        ("question", components.question),
        ("interaction", components.interaction),
    )
    return ", ".join(f"{name} {points(variance**0.5)}" for name, variance in parts)


def _print(title: str, table: Table) -> None:
    console.table(table.columns, table.rows, title=title, right=table.columns[table.words :])
