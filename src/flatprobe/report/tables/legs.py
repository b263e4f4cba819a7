"""The two legs of the decision as cards, and the tables of the numbers behind the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flatprobe.decision.evidence import BehaviouralEvidence, Contrast, GeometricEvidence
from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.origins import ORIGINS
from flatprobe.report.tables.table import Column, Table, Write, build
from flatprobe.report.words import DISTANCES, measure_title, spaced


@dataclass(frozen=True)
class Card:
    """One leg of the decision, as text."""

    title: str
    origin: str
    """Import string of the function that computes the numbers, below `flatprobe`."""
    state: str
    """The verdict's word for the leg."""
    headline: str
    facts: tuple[tuple[str, str], ...]
    """(label, value): what the leg is decided on."""
    details: tuple[tuple[str, str], ...]
    """(label, value): everything else."""


def legs(analysis: Analysis) -> tuple[Card, Card]:
    """The geometric and the behavioural card of the deciding contrast."""
    return _geometric(analysis), _behavioural(analysis)


def _geometric(analysis: Analysis) -> Card:
    rule = analysis.decision.geometry
    evidence = analysis.verdict.numbers.main.geometry
    layers = list(evidence.effects_by_layer.values())
    positive = sum(value is not None and value > 0 for value in layers)
    estimates = select.geometric(analysis, analysis.treated, analysis.control, [evidence.measure])
    bias = [estimate.bootstrap_bias for estimate in estimates if estimate.layer is None]
    return Card(
        title=f"Geometry: {measure_title(evidence.measure)}",
        origin=ORIGINS["card-geometry"],
        state=analysis.verdict.geometric_leg,
        headline=numbers.signed(evidence.effect),
        facts=(
            (f"{analysis.geometric_level} interval", numbers.interval(evidence.ci_low, evidence.ci_high)),
            ("passes if", f"≥ {numbers.decimal(rule.threshold)} and interval above\u00a00"),
            ("distance", numbers.signed(analysis.verdict.distances["geometry_threshold"])),
        ),
        details=(
            ("layers above 0", f"{positive} of {len(layers)}"),
            ("headroom of the control", numbers.decimal(evidence.headroom, 4)),
            ("bootstrap bias", ", ".join(map(numbers.signed, bias)) or numbers.NONE),
            ("read at", f"{spaced(rule.position)}, {rule.responses} responses"),
        ),
    )


def _behavioural(analysis: Analysis) -> Card:
    rule = analysis.decision.behaviour
    evidence = analysis.verdict.numbers.main.behaviour
    treated, control = map(numbers.percent, (evidence.source_rate_treated, evidence.source_rate_control))
    return Card(
        title="Behaviour: leakage difference",
        origin=ORIGINS["card-behaviour"],
        state=analysis.verdict.behavioural_leg,
        headline=numbers.points(evidence.effect),
        facts=(
            (
                f"{analysis.behavioural_level} interval",
                numbers.interval(evidence.ci_low, evidence.ci_high, numbers.points),
            ),
            ("passes if", f"≥ {numbers.points(rule.margin)} and\u00a0p\u00a0<\u00a0{rule.p_below:g}"),
            ("distance", numbers.points(analysis.verdict.distances["leakage_margin"])),
        ),
        details=(
            (f"p, {spaced(evidence.estimator)}", numbers.p_value(evidence.p_value)),
            ("p, new personas and questions", numbers.p_value(evidence.crossed_p)),
            ("source rates", f"{treated} treated, {control} control"),
            ("personas", "bystanders"),
        ),
    )


def conjunction(analysis: Analysis) -> str:
    """A sentence on the p of both legs, or on why there is none."""
    p_value = analysis.verdict.numbers.conjunction_p
    if p_value is None:
        return "p of both legs: none, because a leg has no p."
    return (
        f"p of both legs: {numbers.p_value(p_value)}, the larger of the two (intersection–union test). Each leg’s p "
        "is valid for its scope only."
    )


def evidence(analysis: Analysis) -> Table:
    """The numbers behind the verdict, one row per contrast."""
    names = [select.contrast_name(*pair) for pair in analysis.decision.contrasts]
    values = analysis.verdict.numbers
    contrasts = zip(names, (values.main, values.treated_benign, values.benign_control), strict=False)
    rows = [(name, contrast) for name, contrast in contrasts if contrast is not None]

    def behaviour(name: str) -> Callable[[tuple[str, Contrast]], Any]:
        return lambda row: getattr(row[1].behaviour, name)

    columns = [
        Column("contrast", lambda row: row[0]),
        Column("geometric effect", lambda row: geometric_effect(row[1].geometry), str),
        Column("leakage difference", lambda row: leakage_difference(row[1].behaviour), str),
        Column("registered p", behaviour("p_value"), numbers.p_value),
        Column("crossed p", behaviour("crossed_p"), numbers.p_value),
        Column("p above margin", behaviour("crossed_superiority_p"), numbers.p_value),
        Column("equivalence p", behaviour("crossed_tost_p"), numbers.p_value),
        Column("source rates", lambda row: _source_rates(row[1].behaviour), str),
    ]
    caption = (
        f"The numbers behind the verdict, with {analysis.geometric_level} intervals of the geometric effect and "
        f"{analysis.behavioural_level} intervals of the leakage difference. Crossed p, p above margin and "
        "equivalence p (margin: the kill bound) generalise to new personas and questions."
    )
    return build("evidence", caption, columns, rows)


def geometric_effect(evidence: GeometricEvidence) -> str:
    """The effect and, below it, its interval."""
    return f"{numbers.signed(evidence.effect)}\n{numbers.interval(evidence.ci_low, evidence.ci_high)}"


def leakage_difference(evidence: BehaviouralEvidence) -> str:
    """The difference and, below it, its interval."""
    interval = numbers.interval(evidence.ci_low, evidence.ci_high, numbers.points)
    return f"{numbers.points(evidence.effect)}\n{interval}"


def _source_rates(evidence: BehaviouralEvidence) -> str:
    return f"{numbers.percent(evidence.source_rate_treated)}\n{numbers.percent(evidence.source_rate_control)}"


def distances(analysis: Analysis) -> Table:
    """The distance of each number to its threshold. Positive passes; for the kill criterion it is above the bound."""
    writers: dict[str, Write] = {"points": numbers.points, "plain": numbers.signed}
    rows = [
        {
            "threshold": DISTANCES[name].number,
            "distance": writers[DISTANCES[name].unit](value),
            "result": DISTANCES[name].result(value),
        }
        for name, value in analysis.verdict.distances.items()
    ]
    columns = [Column("threshold", "threshold"), Column("distance", "distance", str), Column("result", "result")]
    return build("distances", "Distance of every number to its threshold, in the number’s unit.", columns, rows)
