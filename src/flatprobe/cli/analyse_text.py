"""Output of `flatprobe analyse`: rates, estimates with their scopes, leave-one-out ranges, conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from flatprobe import console
from flatprobe.counts.comparison import Rule
from flatprobe.report.numbers import decimal, interval, p_value, percent, points
from flatprobe.statistics.bootstrap import ROUNDING
from flatprobe.statistics.estimate import Estimate
from flatprobe.study.decision_schema import BehaviouralLeg

GENERALISING = ("crossed_anova", "two_way_cluster_t", "pigeonhole_t")
"""Estimators that generalise to new personas and new questions; the first with a p-value is concluded from."""
REGISTERED = "cell_bootstrap"
"""The estimator of the registered rule."""


@dataclass(frozen=True)
class LeakageAnalysis:
    """What is printed."""

    cells: pl.DataFrame
    """Rows of both conditions over the pool."""
    treated: str
    control: str
    personas: Sequence[str]
    trained: Sequence[str]
    """Personas of the pool that were trained on."""
    estimates: Sequence[Estimate]
    leave_one_out: pl.DataFrame
    rule: Rule

    def of(self, estimator: str) -> Estimate:
        """The estimate by one estimator."""
        return next(estimate for estimate in self.estimates if estimate.estimator == estimator)


def show(analysis: LeakageAnalysis) -> None:
    """Print the whole analysis."""
    paired = paired_cells(analysis.cells, analysis.treated, analysis.control)
    first = analysis.estimates[0]
    console.say(f"{first.contrast}: leakage over the pool {first.pool}", style="bold")
    for line in [*rate_lines(analysis, paired), ""]:
        console.say(line)
    sides = (analysis.control, analysis.treated)
    console.table(
        ("persona", "questions", *sides, "difference"),
        persona_rows(analysis, paired),
        right=("questions", *sides, "difference"),
    )
    console.say()
    rule = analysis.rule
    numbers = ("difference (pp)", "SE", f"{100 * rule.level:g} % CI", "p", "least p")
    console.table(("estimator", *numbers), [number_row(estimate) for estimate in analysis.estimates], right=numbers)
    console.say()
    tests = (f"p: > {_margin(rule.margin)}", f"p: within {_margin(rule.equivalence)}")
    rows = [margin_row(estimate) for estimate in analysis.estimates]
    console.table(("estimator", *tests, "generalises to"), rows, right=tests)
    for line in ["", *note_lines(analysis.estimates), *leave_one_out_lines(analysis), ""]:
        console.say(line)
    console.say(generalising_words(analysis), style="bold")
    console.say(registered_words(analysis), style="bold")


def paired_cells(cells: pl.DataFrame, treated: str, control: str) -> pl.DataFrame:
    """One row per cell that both conditions have: persona, question_id, hits, total, hits_control, total_control."""
    columns = ("persona", "question_id", "hits", "total")
    sides = [cells.filter(pl.col("condition") == side).select(columns) for side in (treated, control)]
    return sides[0].join(sides[1], on=columns[:2], suffix="_control")


def rate_lines(analysis: LeakageAnalysis, paired: pl.DataFrame) -> list[str]:
    """Pooled counts, the design, and what is unusual about it."""
    sums = paired.sum()
    sides = [
        f"{name} {_rate(sums[hits][0], sums[total][0])}"
        for name, hits, total in (
            (analysis.control, "hits_control", "total_control"),
            (analysis.treated, "hits", "total"),
        )
    ]
    sizes = {*paired["total"], *paired["total_control"]}
    least, most = min(sizes), max(sizes)
    size = f"{least}" if least == most else f"{least} to {most}"
    questions = paired["question_id"].n_unique()
    lines = [
        f"Pooled: {'; '.join(sides)}.",
        f"{len(analysis.personas)} personas × {questions} questions, {paired.height} paired cells "
        f"of {size} completions.",
    ]
    if least != most:
        lines.append(
            "Every cell has the same weight, whatever its size: the estimate is the mean of the cells' differences."
        )
    if analysis.trained:
        lines.append(
            f"CONTAMINATED: the pool decides nothing. It holds trained personas: {', '.join(analysis.trained)}."
        )
    return lines


def persona_rows(analysis: LeakageAnalysis, paired: pl.DataFrame) -> list[tuple[object, ...]]:
    """Both rates and their mean difference over questions, a row per persona of the pool."""
    rows: list[tuple[object, ...]] = []
    for persona in analysis.personas:
        cells = paired.filter(pl.col("persona") == persona)
        if cells.is_empty():
            rows.append((persona, 0, *[points(None)] * 3))
            continue
        sums = cells.sum()
        difference = cells.select(
            (pl.col("hits") / pl.col("total") - pl.col("hits_control") / pl.col("total_control")).mean()
        )
        rows.append(
            (
                persona,
                cells.height,
                _rate(sums["hits_control"][0], sums["total_control"][0]),
                _rate(sums["hits"][0], sums["total"][0]),
                points(difference.item()),
            )
        )
    return rows


def number_row(estimate: Estimate) -> tuple[str, ...]:
    """An estimate in percentage points, with its p-value and its smallest attainable p."""
    return (
        estimate.estimator,
        _pp(estimate.estimate, signed=True),
        _pp(estimate.standard_error),
        interval(estimate.ci_low, estimate.ci_high, lambda end: _pp(end, signed=True)),
        p_value(estimate.p_value),
        p_value(estimate.smallest_attainable_p),
    )


def margin_row(estimate: Estimate) -> tuple[str, ...]:
    """The tests against the margins, and the population that an estimate's interval and p generalise to."""
    tests = p_value(estimate.superiority_p), p_value(estimate.equivalence_p)
    return (estimate.estimator, *tests, estimate.scope)


def note_lines(estimates: Sequence[Estimate]) -> list[str]:
    """Each note once, with its estimators."""
    about: dict[str, list[str]] = {}
    for estimate in estimates:
        for note in (estimate.note or "").split("; "):
            if note:
                about.setdefault(note, []).append(estimate.estimator)
    everyone = len(estimates)
    return [
        f"note: {note} ({'every estimator' if len(names) == everyone else ', '.join(names)})"
        for note, names in about.items()
    ]


def leave_one_out_lines(analysis: LeakageAnalysis) -> list[str]:
    """Range of the estimate without any one persona or question, and the most influential one of each."""
    lines = []
    for kind in ("persona", "question"):
        defined = analysis.leave_one_out.filter(pl.col("kind") == kind, pl.col("estimate").is_not_null())
        table = defined.unique("left_out", keep="first", maintain_order=True)
        if table.is_empty():
            continue
        low, high = table["estimate"].min(), table["estimate"].max()
        most = table.sort(pl.col("difference").abs(), "left_out", descending=[True, False]).row(0, named=True)
        span = interval(low, high, points)  # type: ignore[arg-type]
        lines.append(
            f"without any one {kind}: {span}; {most['left_out']} matters most ({points(most['estimate'])} without it)"
        )
    return lines


def generalising_words(analysis: LeakageAnalysis) -> str:
    """What the first of `GENERALISING` that has a p-value concludes about new personas and questions."""
    candidates = [analysis.of(name) for name in GENERALISING]
    estimate = next((one for one in candidates if one.p_value is not None), None)
    default, rule = candidates[0], analysis.rule
    if estimate is None:
        return f"For {default.scope}: no conclusion, see the note on {GENERALISING[0]}."
    span = interval(estimate.ci_low, estimate.ci_high, points)
    numbers = f"{points(estimate.estimate)}, {100 * rule.level:g} % CI {span}, p {p_value(estimate.p_value)}"
    if estimate is not default:
        numbers += f"; see the note on {GENERALISING[0]}"
    alpha = 1 - rule.level
    assert estimate.p_value is not None and estimate.estimate is not None
    if estimate.p_value >= alpha:
        words = "no difference is shown"
    else:
        words = f"{analysis.treated} leaks {'more' if estimate.estimate > 0 else 'less'} than {analysis.control}"
    tests = [
        _test(f"more than {_margin(rule.margin)}", estimate.superiority_p, alpha),
        _test(f"alike within {_margin(rule.equivalence)}", estimate.equivalence_p, alpha),
    ]
    return f"For {estimate.scope}: {words} ({estimate.estimator}: {numbers}); {', '.join(tests)}."


def registered_words(analysis: LeakageAnalysis) -> str:
    """Whether the registered rule passes: margin and p of the cell bootstrap."""
    estimate, rule = analysis.of(REGISTERED), analysis.rule
    bound = f"p < {rule.p_below:g}"
    rule_name = "Registered rule" if rule.margin == BehaviouralLeg().margin else "Registered rule at another margin"
    named = f"{rule_name} (≥ {_margin(rule.margin)} and {REGISTERED} {bound}; for {estimate.scope})"
    if estimate.estimate is None or estimate.p_value is None:
        return f"{named}: not decided ({estimate.note})."
    floor = estimate.smallest_attainable_p
    if floor is not None and floor >= rule.p_below:
        return f"{named}: cannot pass with {rule.resamples} resamples, the least p is {p_value(floor)}."
    reached = estimate.estimate >= rule.margin - ROUNDING, estimate.p_value < rule.p_below
    facts = f"{points(estimate.estimate)}, p {p_value(estimate.p_value)}"
    return f"{named}: {'passes' if all(reached) else 'fails'} ({facts})."


def _test(claim: str, p: float | None, alpha: float) -> str:
    if p is None:
        return f"{claim}: not tested"
    return f"{claim}: {'supported' if p < alpha else 'not shown'} (p {p_value(p)})"


def _rate(hits: int, total: int) -> str:
    return f"{hits}/{total} = {percent(hits / total)}"


def _pp(value: float | None, *, signed: bool = False) -> str:
    return decimal(None if value is None else 100 * value, 1, signed=signed)


def _margin(value: float) -> str:
    return f"{100 * value:g} pp"
