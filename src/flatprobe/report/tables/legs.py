"""The two legs of the decision as compact cards, and the numbers behind them, as the verdict records them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, Write, build
from flatprobe.report.words import DISTANCES, MEASURES

CONTRASTS = ("main", "treated_benign", "benign_control")
"""Keys of the verdict's numbers, in the order of `select.contrasts`."""


@dataclass(frozen=True)
class Card:
    """One leg, ready to print: `state` is the verdict's word, `facts` are (label, value) pairs."""

    title: str
    state: str
    headline: str
    facts: tuple[tuple[str, str], ...]


def legs(analysis: Analysis) -> tuple[Card, Card]:
    """The geometric and the behavioural card, of the deciding contrast."""
    return _geometric(analysis), _behavioural(analysis)


def _geometric(analysis: Analysis) -> Card:
    rule = analysis.study["decision"]["geometry"]
    found = analysis.verdict["numbers"]["main"]["geometry"]
    layers = list(found["effects_by_layer"].values())
    positive = sum(value is not None and value > 0 for value in layers)
    rows = select.geometric(analysis, analysis.treated, analysis.control, [found["measure"]])
    bias = rows.filter(pl.col("layer").is_null())["bootstrap_bias"].to_list()
    facts = (
        (f"{analysis.geometric_level} interval", numbers.interval(found["ci_low"], found["ci_high"])),
        ("passes at", f"≥ {numbers.decimal(rule['threshold'])}, interval above 0"),
        ("from threshold", numbers.signed(analysis.verdict["distances"]["geometry_threshold"])),
        ("layers above 0", f"{positive} of {len(layers)}"),
        ("headroom in control", numbers.decimal(found["headroom"], 4)),
        ("bootstrap bias", ", ".join(map(numbers.signed, bias)) or numbers.NONE),
        ("read at", f"{rule['position'].replace('_', ' ')}, {rule['responses']} responses"),
    )
    title = f"Geometry: {MEASURES[found['measure']]}"
    return Card(title, analysis.verdict["legs"]["geometric"], numbers.signed(found["effect"]), facts)


def _behavioural(analysis: Analysis) -> Card:
    rule = analysis.study["decision"]["behaviour"]
    found = analysis.verdict["numbers"]["main"]["behaviour"]
    sources = [numbers.percent(found[f"source_rate_{arm}"]) for arm in ("treated", "control")]
    facts = (
        (
            f"{analysis.behavioural_level} interval",
            numbers.interval(found["ci_low"], found["ci_high"], numbers.points),
        ),
        ("passes at", f"≥ {numbers.points(rule['margin'])}, p < {rule['p_below']:g}"),
        ("from threshold", numbers.points(analysis.verdict["distances"]["leakage_margin"])),
        (f"p, {found['estimator'].replace('_', ' ')}", numbers.p_value(found["p_value"])),
        ("p, new personas and questions", numbers.p_value(found["crossed_p"])),
        ("source rates", f"{sources[0]} treated, {sources[1]} control"),
        ("pool", "bystanders"),
    )
    title = "Behaviour: leakage difference"
    return Card(title, analysis.verdict["legs"]["behavioural"], numbers.points(found["effect"]), facts)


def conjunction(analysis: Analysis) -> str:
    """The p of both legs at once as a sentence, or why there is none."""
    found = analysis.verdict["numbers"]["conjunction_p"]
    if found is None:
        return "p of both legs: none, because a leg has no p."
    return (
        f"p of both legs: {numbers.p_value(found)}, the larger of the two (intersection–union test). It is no "
        "stronger than its weaker leg, and each leg’s p holds for its own scope only."
    )


def evidence(analysis: Analysis) -> Table:
    """What the verdict was decided on, one row per contrast that was compared."""
    names = [select.contrast_name(*pair) for pair in select.contrasts(analysis)]
    found = [(name, analysis.verdict["numbers"][key]) for name, key in zip(names, CONTRASTS, strict=False)]
    rows = [
        {"contrast": name, **numbered["geometry"], "leakage": numbered["behaviour"]}
        for name, numbered in found
        if numbered is not None
    ]

    def leak(key: str) -> Any:
        return lambda row: row["leakage"][key]

    columns = [
        Column("contrast", "contrast"),
        Column("geometric effect", _geometric_effect, str),
        Column("leakage difference", _leakage_difference, str),
        Column("registered p", leak("p_value"), numbers.p_value),
        Column("crossed p", leak("crossed_p"), numbers.p_value),
        Column("p above margin", leak("crossed_superiority_p"), numbers.p_value),
        Column("p equivalent", leak("crossed_tost_p"), numbers.p_value),
        Column("source rates", _source_rates, str),
    ]
    caption = (
        f"The numbers decided on, with {analysis.geometric_level} intervals of the geometric effect and "
        f"{analysis.behavioural_level} intervals of the leakage difference; source rates are the treated "
        "condition’s and, below it, the control’s. Crossed p, p above margin (H0: at most the margin) and p equivalent "
        "(within the kill bound) speak for new personas and questions."
    )
    return build("evidence", caption, columns, rows)


def _geometric_effect(row: Mapping[str, Any]) -> str:
    return f"{numbers.signed(row['effect'])}\n{numbers.interval(row['ci_low'], row['ci_high'])}"


def _leakage_difference(row: Mapping[str, Any]) -> str:
    leak = row["leakage"]
    interval = numbers.interval(leak["ci_low"], leak["ci_high"], numbers.points)
    return f"{numbers.points(leak['effect'])}\n{interval}"


def _source_rates(row: Mapping[str, Any]) -> str:
    leak = row["leakage"]
    return f"{numbers.percent(leak['source_rate_treated'])}\n{numbers.percent(leak['source_rate_control'])}"


def distances(analysis: Analysis) -> Table:
    """How far each number is from its threshold; positive is the passing (for the kill rows: surviving)
    side."""
    writers: dict[str, Write] = {"points": numbers.points, "plain": numbers.signed}
    rows = [
        {
            "what": DISTANCES[name].what,
            "distance": writers[DISTANCES[name].unit](value),
            "side": DISTANCES[name].side(value),
        }
        for name, value in analysis.verdict["distances"].items()
    ]
    columns = [Column("distance of", "what"), Column("distance", "distance", str), Column("side", "side")]
    return build(
        "distances", "Distance to every threshold of the rule, in the unit of its number.", columns, rows
    )
