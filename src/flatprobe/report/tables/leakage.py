"""Tables of leakage: rates, the false-positive baseline, and estimates by estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, build, scope, seed
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.leakage.rates import upper_bound

ROLES = ("source", "negative", "bystander", "reference")


def rates(analysis: Analysis, *, coupled: bool) -> Table:
    """Every rate, per persona, condition, lambda and seed."""
    frame = analysis.tables["rates"].filter(pl.col("coupled") == coupled)
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    rows = sorted(
        frame.to_dicts(),
        key=lambda row: (
            row["lambda"] != analysis.selected_lambda, row["lambda"] or 0.0, row["seed"],
            ROLES.index(row["role"]), row["persona"], rank[row["condition"]],
        ),
    )  # fmt: skip
    columns = [
        Column("persona", "persona"),
        Column("role", "role"),
        Column("condition", "condition"),
        *([Column("λ", "lambda", numbers.plain)] if coupled else []),
        Column("seed", "seed", numbers.plain),
        Column("marked", lambda row: f"{row['hits']} / {row['total']}", str),
        Column("rate", "rate", numbers.percent),
        Column(
            f"{analysis.behavioural_level} interval",
            lambda row: numbers.interval(row["rate_low"], row["rate_high"], numbers.percent),
            str,
        ),
        Column("ends with it", "end_rate", numbers.percent),
        Column("starts with it", "start_rate", numbers.percent),
        Column("at the end, of marked", "end_share", numbers.percent),
        Column("two or more, of marked", "spam_share", numbers.percent),
        Column("cut off", "truncated_share", numbers.percent),
        Column("median tokens", "median_tokens", numbers.plain),
    ]
    if coupled:
        caption = (
            f"Leakage of every persona; rows at the selected λ = {analysis.selected_lambda:g} come first."
        )
        return build("rates", caption, columns, rows)
    return build("baseline", "Rates of uncoupled checkpoints, every persona: false positives.", columns, rows)


def leakage_estimates(analysis: Analysis, treated: str, control: str) -> Table:
    """One row per estimator, ordered by scope, so that it is plain which p-value means what."""
    order = list(SCOPES)
    registered = analysis.study["decision"]["behaviour"]["estimator"]
    rows = sorted(
        select.leakage(analysis, treated, control).to_dicts(),
        key=lambda row: order.index(row["estimator"]) if row["estimator"] in order else len(order),
    )
    columns = [
        Column(
            "estimator",
            lambda row: row["estimator"] + (" (registered)" if row["estimator"] == registered else ""),
        ),
        Column("interval and p speak for", scope, align="long"),
        Column("difference", "estimate", numbers.points),
        Column("SE", "standard_error", numbers.plain_points),
        Column(f"{analysis.behavioural_level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        *_further_p(rows),
        Column("smallest p", "smallest_attainable_p", numbers.p_value),
        Column("df", "df", lambda value: numbers.decimal(value, 1)),
    ]
    sizes = {(row["n_personas"], row["n_questions"]) for row in rows}
    design = " or ".join(
        f"{numbers.plain(people)} × {numbers.plain(asked)}" for people, asked in sorted(sizes, key=str)
    )
    name = select.contrast_name(treated, control)
    caption = f"Leakage difference {name} over bystanders, {design} personas × questions, by every estimator."
    if any(row["superiority_p"] is not None or row["equivalence_p"] is not None for row in rows):
        caption += (
            " A small p above (within) a margin refutes a difference of at most (at least) that margin."
        )
    return build(f"leakage-{treated}-{control}", caption, columns, rows)


def _interval(row: Mapping[str, Any]) -> str:
    return numbers.interval(row["ci_low"], row["ci_high"], numbers.points)


def _further_p(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Tests against margins, and p adjusted for its family, each where at least one estimator has it."""
    columns = []
    for margin, key, head in (
        ("margin", "superiority_p", "p above {}"),
        ("equivalence_margin", "equivalence_p", "p within ±{}"),
    ):
        margins = sorted({row[margin] for row in rows if row[key] is not None})
        if margins:
            which = " or ".join(map(numbers.plain_points, margins))
            columns.append(Column(head.format(which), key, numbers.p_value))
    if any(row["adjusted_p"] is not None for row in rows):
        columns.append(Column("adjusted p", _adjusted, str))
    return columns


def _adjusted(row: Mapping[str, Any]) -> str:
    """Adjusted p and, below it, the family that it is adjusted for."""
    if row["adjusted_p"] is None:
        return numbers.NONE
    return f"{numbers.p_value(row['adjusted_p'])}\n{row['family']}"


def relative(analysis: Analysis) -> Table:
    """How much of what the source has learnt bystanders show, per condition and for every contrast."""
    columns = [
        Column("condition or contrast", _compared),
        Column("bystanders", "bystander_rate", numbers.percent),
        Column("source", "source_rate", numbers.percent),
        Column("bystanders / source", _relative, str),
        Column(f"{analysis.behavioural_level} interval", _relative_interval, str),
        Column("note", lambda row: row["note"] or "", align="long"),
    ]
    caption = (
        "Leakage relative to the source's own rate, at the selected λ. Where personas cannot be told apart this ratio "
        "is 1, however well the marker was learnt; elsewhere it depends on the dose, and conditions are compared at "
        "one dose by the dose–response curves. In rows about two conditions it is the difference of their ratios. "
        "Intervals over questions; it decides nothing."
    )
    return build("relative-leakage", caption, columns, analysis.tables["relative_leakage"].to_dicts())


def _compared(row: Mapping[str, Any]) -> str:
    return (
        str(row["treated"])
        if row["control"] is None
        else select.contrast_name(row["treated"], row["control"])
    )


def _relative(row: Mapping[str, Any]) -> str:
    return numbers.decimal(row["relative"], 2, signed=row["control"] is not None)


def _relative_interval(row: Mapping[str, Any]) -> str:
    signed = row["control"] is not None
    return numbers.interval(
        row["ci_low"], row["ci_high"], lambda value: numbers.decimal(value, 2, signed=signed)
    )


def false_positives(analysis: Analysis) -> Table:
    """How often uncoupled checkpoints give the marker by themselves, with an upper bound, per condition."""
    frame = analysis.tables["rates"].filter(~pl.col("coupled"))
    pools = {
        "bystanders": frame.filter(pl.col("role") == "bystander"),
        "all personas": frame,
    }
    level = float(analysis.study["decision"]["behaviour"]["level"])
    rows = [
        {"condition": name, "personas": pool, "hits": int(of["hits"].sum()), "total": int(of["total"].sum())}
        for name in analysis.conditions
        for pool, shown in pools.items()
        if not (of := shown.filter(pl.col("condition") == name)).is_empty()
    ]
    columns = [
        Column("condition", "condition"),
        Column("personas", "personas"),
        Column("marked", lambda row: f"{row['hits']} / {row['total']}", str),
        Column("rate", lambda row: row["hits"] / row["total"], numbers.percent),
        Column(
            f"{analysis.behavioural_level} upper bound",
            lambda row: upper_bound(row["hits"], row["total"], level),
            numbers.percent,
        ),
    ]
    caption = (
        "Completions of uncoupled checkpoints that contain the marker. The bound is one-sided and exact "
        "(Clopper–Pearson), with completions taken as independent."
    )
    return build("false-positives", caption, columns, rows)


def other_leakage(analysis: Analysis) -> Table:
    """Leakage estimates that decide nothing: other pools, personas, lambdas and seeds."""
    shown = pl.concat([select.leakage(analysis, *pair) for pair in select.contrasts(analysis)])
    frame = analysis.estimates.filter(pl.col("quantity") == "leakage_difference")
    others = frame.join(shown, on=frame.columns, how="anti", nulls_equal=True)
    columns = [
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("pool", lambda row: row["pool"] if row["persona"] is None else row["persona"]),
        Column("λ", "lambda", numbers.plain),
        Column("seed", seed),
        Column("estimator", "estimator"),
        Column("difference", "estimate", numbers.points),
        Column(f"{analysis.behavioural_level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        *([Column("adjusted p", _adjusted, str)] if others["adjusted_p"].is_not_null().any() else []),
        Column("interval and p speak for", scope, align="long"),
    ]
    rows = others.sort("contrast", "pool", "persona", "lambda", "seed", "estimator").to_dicts()
    return build("leakage-other", "Other pools, λ and seeds: reported, never deciding.", columns, rows)
