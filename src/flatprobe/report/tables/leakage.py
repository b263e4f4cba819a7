"""Tables of leakage: marker rates, false positives, and estimates by estimator."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Row, Table, build, scope_column, seed_name
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.leakage.rates import upper_bound

ROLES = ("source", "negative", "bystander", "reference")


def rates(analysis: Analysis, *, coupled: bool) -> Table:
    """Marker rates per persona, condition, lambda and seed."""
    frame = analysis.tables["rates"].filter(pl.col("coupled") == coupled)
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    rows = sorted(
        frame.to_dicts(),
        key=lambda row: (
            row["lambda"] != analysis.selected_lambda,
            row["lambda"] or 0.0,
            row["seed"],
            ROLES.index(row["role"]),
            row["persona"],
            rank[row["condition"]],
        ),
    )
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
        Column("ends with marker", "end_rate", numbers.percent),
        Column("starts with marker", "start_rate", numbers.percent),
        Column("share at the end", "end_share", numbers.percent),
        Column("spam", "spam_share", numbers.percent),
        Column("truncated", "truncated_share", numbers.percent),
        Column("median length", "median_tokens", numbers.plain),
    ]
    if coupled:
        caption = f"Marker rates of coupled checkpoints, the selected λ = {analysis.selected_lambda:g} first."
        return build("rates", caption, columns, rows)
    return build("baseline", "Marker rates of uncoupled checkpoints: false positives.", columns, rows)


def leakage_estimates(analysis: Analysis, treated: str, control: str) -> Table:
    """One row per estimator, ordered by what it generalises to."""
    order = list(SCOPES)
    registered = analysis.decision.behaviour.estimator
    estimates = sorted(
        select.leakage(analysis, treated, control),
        key=lambda estimate: order.index(estimate.estimator) if estimate.estimator in order else len(order),
    )
    columns = [
        Column(
            "estimator",
            lambda estimate: estimate.estimator + (" (registered)" if estimate.estimator == registered else ""),
        ),
        scope_column(),
        Column("difference", "estimate", numbers.points),
        Column("SE", "standard_error", numbers.plain_points),
        Column(f"{analysis.behavioural_level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        *_further_p(estimates),
        Column("smallest possible p", "smallest_attainable_p", numbers.p_value),
        Column("df", "df", lambda value: numbers.decimal(value, 1)),
    ]
    sizes = {(estimate.n_personas, estimate.n_questions) for estimate in estimates}
    design = " or ".join(
        f"{numbers.plain(personas)} × {numbers.plain(questions)}" for personas, questions in sorted(sizes, key=str)
    )
    name = select.contrast_name(treated, control)
    caption = f"Leakage difference {name} over bystanders by every estimator ({design} personas × questions)."
    if any(e.superiority_p is not None or e.equivalence_p is not None for e in estimates):
        caption += " A small “p above” shows a difference above that margin; a small “p within” shows one inside it."
    return build("leakage", caption, columns, estimates, f"{treated}-{control}")


def _interval(estimate: Estimate) -> str:
    return numbers.interval(estimate.ci_low, estimate.ci_high, numbers.points)


def _further_p(estimates: Sequence[Estimate]) -> list[Column]:
    """Tests against margins and adjusted p, if at least one estimator has them."""
    columns = []
    for margin, key, head in (
        ("margin", "superiority_p", "p above {}"),
        ("equivalence_margin", "equivalence_p", "p within ±{}"),
    ):
        margins = sorted({getattr(each, margin) for each in estimates if getattr(each, key) is not None})
        if margins:
            which = " or ".join(map(numbers.plain_points, margins))
            columns.append(Column(head.format(which), key, numbers.p_value))
    if any(estimate.adjusted_p is not None for estimate in estimates):
        columns.append(Column("adjusted p", _adjusted, str))
    return columns


def _adjusted(estimate: Estimate) -> str:
    """Adjusted p and, below it, the family that it covers."""
    if estimate.adjusted_p is None:
        return numbers.NONE
    return f"{numbers.p_value(estimate.adjusted_p)}\n{estimate.family}"


def relative(analysis: Analysis) -> Table:
    """The bystanders' rate over the source's, per condition and contrast."""
    columns = [
        Column("condition or contrast", _compared),
        Column("bystanders", "bystander_rate", numbers.percent),
        Column("source", "source_rate", numbers.percent),
        Column("relative leakage", _relative, str),
        Column(f"{analysis.behavioural_level} interval", _relative_interval, str),
        Column("note", lambda row: row["note"] or "", align="long"),
    ]
    caption = (
        "The bystanders’ marker rate over the source’s, at the selected λ. The ratio is 1 if personas cannot be "
        "distinguished, at any dose. Otherwise it depends on the dose; the dose–response curves compare conditions at "
        "equal dose. Rows of a contrast show the difference of two ratios. Intervals are over questions. This table "
        "decides nothing."
    )
    return build("relative-leakage", caption, columns, analysis.tables["relative_leakage"].to_dicts())


def _compared(row: Row) -> str:
    return str(row["treated"]) if row["control"] is None else select.contrast_name(row["treated"], row["control"])


def _relative(row: Row) -> str:
    return numbers.decimal(row["relative"], 2, signed=row["control"] is not None)


def _relative_interval(row: Row) -> str:
    signed = row["control"] is not None
    return numbers.interval(row["ci_low"], row["ci_high"], lambda value: numbers.decimal(value, 2, signed=signed))


def false_positives(analysis: Analysis) -> Table:
    """How often uncoupled checkpoints emit the marker, with an upper bound, per condition."""
    frame = analysis.tables["rates"].filter(~pl.col("coupled"))
    pools = {"bystanders": frame.filter(pl.col("role") == "bystander"), "all personas": frame}
    level = analysis.decision.behaviour.level
    rows = [
        {"condition": name, "personas": pool, "hits": int(counts["hits"].sum()), "total": int(counts["total"].sum())}
        for name in analysis.conditions
        for pool, rates_of_pool in pools.items()
        if not (counts := rates_of_pool.filter(pl.col("condition") == name)).is_empty()
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
        "Completions of uncoupled checkpoints with the marker. The bound is one-sided and exact (Clopper–Pearson); it "
        "treats completions as independent."
    )
    return build("false-positives", caption, columns, rows)


def other_leakage(analysis: Analysis) -> Table:
    """Leakage estimates of other pools, personas, lambdas and seeds; none decides."""
    main = [estimate for pair in analysis.decision.contrasts for estimate in select.leakage(analysis, *pair)]
    of_leakage = select.estimates(analysis, pl.col("quantity") == "leakage_difference")
    others = sorted((estimate for estimate in of_leakage if estimate not in main), key=_order)
    columns = [
        Column("contrast", lambda estimate: select.contrast_name(estimate.treated, estimate.control)),
        Column("pool", lambda estimate: estimate.persona or select.pool_name(estimate.pool, estimate.contaminated)),
        Column("λ", "lambda_", numbers.plain),
        Column("seed", "seed", seed_name, "text"),
        Column("estimator", "estimator"),
        Column("difference", "estimate", numbers.points),
        Column(f"{analysis.behavioural_level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        *(
            [Column("adjusted p", _adjusted, str)]
            if any(estimate.adjusted_p is not None for estimate in others)
            else []
        ),
        scope_column(),
    ]
    caption = "Leakage differences of other pools, λ and seeds. None of them decides."
    return build("leakage-other", caption, columns, others)


def _order(estimate: Estimate) -> tuple[str, str, str, float, int, str]:
    """Sort key; a missing persona, lambda or seed comes first."""
    lambda_ = -1.0 if estimate.lambda_ is None else estimate.lambda_
    seed = -1 if estimate.seed is None else estimate.seed
    return (estimate.contrast, estimate.pool, estimate.persona or "", lambda_, seed, estimate.estimator)
