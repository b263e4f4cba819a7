"""`flatprobe analyse`: every estimator of the leakage difference, on a file of counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flatprobe import console
from flatprobe.cli.options import (
    TABLES,
    check_problems,
    json_problems,
    names,
    output_problems,
    put_out,
    read_filters,
    write_table,
)
from flatprobe.config.suggest import closest
from flatprobe.counts.cell_files import CellFile, read_cell_file
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

MOST_RESAMPLES = 10_000_000
"""More draws of one estimator need gigabytes and change no p-value."""

UNSAMPLED = ("crossed_anova", "question_t", "persona_t")
"""Estimators behind the printed leave-one-out range: they are fast, and one of them supports any design."""


@dataclass(frozen=True, kw_only=True)
class AnalyseOptions:
    """The command line; None where an option was left out."""

    cells: Path
    treated: str | None
    control: str | None
    bystanders: Sequence[str]
    """Names, or lists of names separated by commas; likewise `trained`."""
    trained: Sequence[str]
    """Personas that were trained on; a pool with one of them is contaminated."""
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


def analyse(options: AnalyseOptions) -> None:
    """Compare two conditions and print every estimate with its scope.

    Raises:
        UserError: everything that is wrong with the options and the file, at once; nothing is written then.
    """
    rule = registered_rule(options.margin, options.equivalence, options.level, options.resamples)
    where, problems = read_filters(options.where)
    problems += [*_number_problems(options, rule), *_output_problems(options)]
    file, more = read_cell_file(options.cells, where, options.hits)
    comparison = Comparison(options.treated, options.control, names(options.bystanders))
    problems += [*more, *name_problems(comparison, file)]
    if file is not None:
        problems += duplicate_problems(file, compared(file, comparison))
    if problems or file is None:
        raise UserError(problems)
    _compute(options, rule, file, comparison)


def _compute(options: AnalyseOptions, rule: Rule, file: CellFile, comparison: Comparison) -> None:
    from flatprobe.cli.analyse_text import LeakageAnalysis, show
    from flatprobe.statistics.leakage.cells import pair_cells
    from flatprobe.statistics.leakage.estimators import leakage_contrast
    from flatprobe.statistics.leakage.leave_one_out import leave_one_out

    treated, control, personas = comparison.treated, comparison.control, comparison.personas
    assert treated is not None and control is not None
    cells = compared(file, comparison)
    for warning in [*differing_settings(file, cells, comparison), *_mistyped(options, personas, file)]:
        console.warn(warning)
    trained = set(names(options.trained))
    estimates = leakage_contrast(
        cells,
        treated,
        control,
        personas,
        pool=options.pool,
        resamples=rule.resamples,
        seed=options.seed,
        level=rule.level,
        contaminated=bool(trained & set(personas)),
        margin=rule.margin,
        equivalence_margin=rule.equivalence,
    )
    paired = pair_cells(cells, treated, control, personas)
    without = partial(leave_one_out, paired, resamples=rule.resamples, seed=options.seed, level=rule.level)
    if options.leave_one_out is not None:
        write_table(without(), options.leave_one_out)
    rows = [estimate.to_json() for estimate in estimates]
    if put_out(json.dumps(rows, indent=2, allow_nan=False), options.json):
        return
    in_training = [name for name in personas if name in trained]
    ranges = without(estimators=UNSAMPLED)
    show(LeakageAnalysis(cells, treated, control, personas, in_training, estimates, ranges, rule))


def _number_problems(options: AnalyseOptions, rule: Rule) -> list[Problem]:
    checks = (
        (0 <= rule.margin <= 1, "--margin", f"{rule.margin} is not in [0, 1]", "15 pp are 0.15"),
        (0 < rule.equivalence <= 1, "--equivalence", f"{rule.equivalence} is not in (0, 1]", "5 pp are 0.05"),
        (0 < rule.level < 1, "--level", f"{rule.level} is not in (0, 1)", "95 % are 0.95"),
        (rule.resamples >= 1, "--resamples", f"{rule.resamples} is not a number of draws", "at least 1"),
        (
            rule.resamples <= MOST_RESAMPLES,
            "--resamples",
            f"{rule.resamples} draws do not fit into memory",
            f"at most {MOST_RESAMPLES}",
        ),
        (options.seed >= 0, "--seed", f"{options.seed} is negative", "0 or a positive whole number"),
        (bool(options.pool.strip()), "--pool", "the pool's name is empty", "leave the option out"),
    )
    return check_problems(checks)


def _output_problems(options: AnalyseOptions) -> list[Problem]:
    problems = json_problems(options.json, [options.cells])
    if options.leave_one_out is not None:
        others = [options.cells, *([options.json] if options.json is not None else [])]
        problems += output_problems("--leave-one-out", options.leave_one_out, others, TABLES)
    return problems


def _mistyped(options: AnalyseOptions, personas: Sequence[str], file: CellFile) -> list[str]:
    """Warnings for unknown trained personas: a typing mistake would leave the pool without its label."""
    guesses = {name: closest(name, personas) for name in names(options.trained) if name not in file.personas}
    return [
        f"--trained {name}: {file.table.path} has no such persona; if it is `{guess}`, the pool is contaminated"
        for name, guess in guesses.items()
        if guess is not None
    ]
