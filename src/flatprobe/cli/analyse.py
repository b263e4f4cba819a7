"""`flatprobe analyse`: every estimator of the leakage difference on counts that somebody has already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flatprobe import console
from flatprobe.cli.options import TABLES, output_problems, write_table
from flatprobe.config.suggest import closest
from flatprobe.counts.cell_files import CellFile, Where, read_cell_file
from flatprobe.counts.comparison import (
    Comparison,
    Rule,
    compared,
    differing_settings,
    duplicate_problems,
    name_problems,
    registered_rule,
)
from flatprobe.errors import Problem, UserError

STANDARD_OUTPUT = Path("-")
MOST_RESAMPLES = 10_000_000
"""Beyond this the draws of one estimator fill gigabytes, and a p-value gains nothing."""

UNSAMPLED = ("crossed_anova", "question_t", "persona_t")
"""What the printed leave-one-out range takes its estimates from: quick, and one of them supports any design."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line; None where an option was left out."""

    cells: Path
    treated: str | None
    control: str | None
    bystanders: Sequence[str]
    """Names, or lists of names separated by commas."""
    trained: Sequence[str]
    """Likewise: personas that were trained on; a pool with one of them is contaminated."""
    where: Sequence[str]
    pool: str
    hits: str
    margin: float | None
    equivalence: float | None
    level: float | None
    resamples: int | None
    seed: int
    leave_one_out: Path | None
    json: Path | None


def analyse(request: Request) -> None:
    """Compare two conditions and print every estimate with its scope.

    Raises:
        UserError: everything that is wrong with the options and the file, at once; nothing is written then.
    """
    rule = registered_rule(request.margin, request.equivalence, request.level, request.resamples)
    where, problems = _filters(request.where)
    problems += [*_number_problems(request, rule), *_output_problems(request)]
    file, more = read_cell_file(request.cells, where, request.hits)
    asked = Comparison(request.treated, request.control, _names(request.bystanders))
    problems += [*more, *name_problems(asked, file)]
    if file is not None:
        problems += duplicate_problems(file, compared(file, asked))
    if problems or file is None:
        raise UserError(problems)
    _compute(request, rule, file, asked)


def _compute(request: Request, rule: Rule, file: CellFile, asked: Comparison) -> None:
    from flatprobe.cli.analyse_text import Shown, show
    from flatprobe.statistics.estimate import write_json
    from flatprobe.statistics.leakage.cells import pair_cells
    from flatprobe.statistics.leakage.estimators import leakage_contrast
    from flatprobe.statistics.leakage.leave_one_out import leave_one_out

    assert asked.treated is not None and asked.control is not None
    cells = compared(file, asked)
    for warning in [*differing_settings(file, cells, asked), *_untrained(request, asked, file)]:
        console.warn(warning)
    trained = set(_names(request.trained))
    estimates = leakage_contrast(
        cells, asked.treated, asked.control, asked.personas, pool=request.pool, resamples=rule.resamples,
        seed=request.seed, level=rule.level, contaminated=bool(trained & set(asked.personas)),
        margin=rule.margin, equivalence_margin=rule.equivalence,
    )  # fmt: skip
    paired = pair_cells(cells, asked.treated, asked.control, asked.personas)
    without = partial(leave_one_out, paired, resamples=rule.resamples, seed=request.seed, level=rule.level)
    if request.leave_one_out is not None:
        write_table(without(), request.leave_one_out)
    if request.json == STANDARD_OUTPUT:
        console.say(json.dumps([estimate.to_json() for estimate in estimates], indent=2, allow_nan=False))
        return
    if request.json is not None:
        write_json(estimates, request.json)
    in_training = [name for name in asked.personas if name in trained]
    ranges = without(estimators=UNSAMPLED)
    show(Shown(cells, asked.treated, asked.control, asked.personas, in_training, estimates, ranges, rule))


def _filters(where: Sequence[str]) -> tuple[list[Where], list[Problem]]:
    filters, problems = [], []
    for text in where:
        column, equals, value = text.partition("=")
        if equals and column.strip():
            filters.append(Where(column.strip(), value.strip()))
        else:
            problems.append(
                Problem(
                    "analyse.TODO", f"--where {text}", "is not a filter", "write it as `--where lambda=1`"
                )
            )
    return filters, problems


def _number_problems(request: Request, rule: Rule) -> list[Problem]:
    checks = (
        (0 <= rule.margin <= 1, "--margin", f"{rule.margin} is not in [0, 1]", "15 pp are 0.15"),
        (0 < rule.equivalence <= 1, "--equivalence", f"{rule.equivalence} is not in (0, 1]", "5 pp are 0.05"),
        (0 < rule.level < 1, "--level", f"{rule.level} is not in (0, 1)", "95 % are 0.95"),
        (rule.resamples >= 1, "--resamples", f"{rule.resamples} is not a number of draws", "at least 1"),
        (
            rule.resamples <= MOST_RESAMPLES, "--resamples", f"{rule.resamples} draws do not fit into memory",
            f"at most {MOST_RESAMPLES}",
        ),
        (request.seed >= 0, "--seed", f"{request.seed} is negative", "0 or a positive whole number"),
        (bool(request.pool.strip()), "--pool", "the pool's name is empty", "leave the option out"),
    )  # fmt: skip
    return [
        Problem("analyse.TODO", option, message, remedy)
        for right, option, message, remedy in checks
        if not right
    ]


def _output_problems(request: Request) -> list[Problem]:
    problems, taken = [], [request.cells]
    if request.json is not None and request.json != STANDARD_OUTPUT:
        problems += output_problems("--json", request.json, taken)
        taken.append(request.json)
    if request.leave_one_out is not None:
        problems += output_problems("--leave-one-out", request.leave_one_out, taken, TABLES)
    return problems


def _names(lists: Sequence[str]) -> tuple[str, ...]:
    """`a, b` and `c` as a, b, c."""
    return tuple(name.strip() for names in lists for name in names.split(",") if name.strip())


def _untrained(request: Request, asked: Comparison, file: CellFile) -> list[str]:
    """A mistyped trained persona would leave its pool without the label: say what it may have meant."""
    guesses = {
        name: closest(name, asked.personas) for name in _names(request.trained) if name not in file.personas
    }
    return [
        f"--trained {name}: {file.table.path} has no such persona; if it is `{guess}`, the pool is contaminated"
        for name, guess in guesses.items()
        if guess is not None
    ]
