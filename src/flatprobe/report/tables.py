"""The report's tables: each function picks rows and writes their numbers; a cell is text and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis import Analysis
from flatprobe.report.words import MEASURES
from flatprobe.statistics.leakage import SCOPES
from flatprobe.statistics.measures import RATIOS

ROLES = ("source", "negative", "bystander", "reference")
Align = Literal["text", "number", "long"]
Write = Callable[[Any], str]


@dataclass(frozen=True)
class Table:
    """A caption, column heads with their alignment, and rows of text; the first cell of a row is its head."""

    name: str
    caption: str
    heads: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[str, ...], ...]


class Column:
    """How one column of a table is headed, taken from a row, and written."""

    def __init__(
        self,
        head: str,
        key: str | Callable[[Mapping[str, Any]], Any],
        write: Write | None = None,
        align: Align | None = None,
    ) -> None:
        self.head = head
        self.align: Align = align or ("text" if write is None else "number")
        self._take = key if callable(key) else lambda row: row[key]
        self._write = write or numbers.plain

    def cell(self, row: Mapping[str, Any]) -> str:
        """Text of this column in a row."""
        return self._write(self._take(row))


def build(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> Table:
    """Write rows by columns; a row without a column's key raises KeyError."""
    heads = tuple((column.head, column.align) for column in columns)
    return Table(name, caption, heads, tuple(tuple(column.cell(row) for column in columns) for row in rows))


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
            "95 % interval",
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
    return build(
        "baseline", "False-positive baseline: the same cells on uncoupled checkpoints.", columns, rows
    )


def leakage_estimates(analysis: Analysis, treated: str, control: str) -> Table:
    """One row per estimator, ordered by scope, so that it is plain which p-value means what."""
    order = list(SCOPES)
    registered = analysis.study["decision"]["behaviour"]["estimator"]
    rows = sorted(
        select.leakage(analysis, treated, control).to_dicts(),
        key=lambda row: (
            row["seed"] or -1,
            order.index(row["estimator"]) if row["estimator"] in order else len(order),
        ),
    )
    columns = [
        Column(
            "estimator",
            lambda row: row["estimator"] + (" (registered)" if row["estimator"] == registered else ""),
        ),
        Column("interval and p speak for", _scope, align="long"),
        Column("difference", "estimate", numbers.points),
        Column("SE", "standard_error", numbers.plain_points),
        Column(
            "95 % interval", lambda row: numbers.interval(row["ci_low"], row["ci_high"], numbers.points), str
        ),
        Column("p", "p_value", numbers.p_value),
        Column("smallest p", "smallest_attainable_p", numbers.p_value),
        Column("df", "df", lambda value: numbers.decimal(value, 1)),
    ]
    sizes = {(row["n_personas"], row["n_questions"]) for row in rows}
    design = " or ".join(
        f"{numbers.plain(people)} × {numbers.plain(asked)}" for people, asked in sorted(sizes, key=str)
    )
    name = select.contrast_name(treated, control)
    caption = f"Leakage difference {name} over bystanders, {design} personas × questions, by every estimator."
    return build(f"leakage-{treated}-{control}", caption, columns, rows)


def _scope(row: Mapping[str, Any]) -> str:
    """The population spoken for and, below it, what else a reader must know: the reason where a number is
    missing."""
    return row["scope"] if row["note"] is None else f"{row['scope']}\nNote: {row['note']}"


def layers(analysis: Analysis) -> Table:
    """Per condition and layer: level of the cosines and what limits reading them."""
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    rows = sorted(
        analysis.at_registered_position("geometry").to_dicts(),
        key=lambda row: (row["layer"], rank[row["condition"]]),
    )
    columns = [
        Column("layer", "layer"),
        Column("condition", "condition"),
        Column("mean cosine", "mean_cosine", lambda value: numbers.decimal(value, 4)),
        Column("headroom", "headroom", lambda value: numbers.decimal(value, 4)),
        Column("reliability", "reliability", numbers.decimal),
        Column("separability", "separability", numbers.decimal),
        Column("chance", "chance", numbers.decimal),
        Column("scatter", "scatter", numbers.plain),
        Column("noise", "noise", numbers.plain),
        Column("participation ratio", "participation_ratio", lambda value: numbers.decimal(value, 2)),
        Column("mean norm", "mean_norm", lambda value: numbers.decimal(value, 1)),
    ]
    return build(
        "layers", "Centroids per layer and condition, at the deciding position and responses.", columns, rows
    )


def effects(analysis: Analysis) -> Table:
    """Per layer and for the aggregate: every geometric measure of the deciding contrast, with its
    interval."""
    frame = select.geometric(analysis, analysis.treated, analysis.control, list(MEASURES))
    present = [name for name in MEASURES if name in set(frame["quantity"])]
    at = {(row["layer"], row["quantity"]): row for row in frame.to_dicts()}
    found = sorted({layer for layer, _ in at if layer is not None})
    rows = [
        {"layer": layer, **{name: at.get((layer, name)) for name in present}}
        for layer in (*found, None)
        if any((layer, name) in at for name in present)
    ]

    def write(row: Mapping[str, Any] | None) -> str:
        if row is None or row["estimate"] is None:
            return numbers.NONE
        return f"{_effect(row, 'estimate')}\n{_effect_interval(row)}"

    columns = [
        Column("layer", lambda row: "mean over layers" if row["layer"] is None else row["layer"]),
        *(Column(MEASURES[name], name, write) for name in present),
    ]
    name = select.contrast_name(analysis.treated, analysis.control)
    return build(
        "effects", f"What moved, {name}: each measure with its 95 % interval over questions.", columns, rows
    )


def _effect(row: Mapping[str, Any], key: str) -> str:
    """Differences carry their sign; ratios, whose null is 1, do not."""
    return numbers.decimal(row[key], 4, signed=row["quantity"] not in RATIOS)


def _effect_interval(row: Mapping[str, Any]) -> str:
    signed = row["quantity"] not in RATIOS
    return numbers.interval(
        row["ci_low"], row["ci_high"], lambda value: numbers.decimal(value, 4, signed=signed)
    )


def aggregates(analysis: Analysis, *, registered: bool) -> Table:
    """Estimates over all registered layers: at the deciding position and responses, or at all the others."""
    at_rule = (pl.col("position") == analysis.position) & (pl.col("responses") == analysis.responses)
    deciding = pl.col("estimator") == select.DECIDING_GEOMETRIC_ESTIMATOR
    frame = analysis.estimates.filter(
        (pl.col("quantity") != "leakage_difference")
        & pl.col("layer").is_null()
        & (at_rule if registered else ~at_rule & deciding)
    )
    rows = frame.sort("contrast", "position", "responses", "quantity", "estimator").to_dicts()
    columns = [
        Column("quantity", lambda row: MEASURES.get(row["quantity"], row["quantity"].replace("_", " "))),
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("position", "position"),
        Column("responses", "responses"),
        Column("estimator", "estimator"),
        Column("pool", "pool"),
        Column("estimate", lambda row: _effect(row, "estimate"), str),
        Column("SE", "standard_error", lambda value: numbers.decimal(value, 4)),
        Column("95 % interval", _effect_interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("bootstrap bias", "bootstrap_bias", numbers.signed),
        Column("outside own interval", "outside_own_interval"),
        Column("interval and p speak for", _scope, align="long"),
    ]
    if registered:
        caption = "Every measure over the registered layers, at the deciding position and responses."
        return build("aggregates", caption, columns, rows)
    caption = (
        "The same at other positions and responses, by the deciding estimator: reported, never deciding."
    )
    return build("aggregates-elsewhere", caption, columns, rows)


def other_leakage(analysis: Analysis) -> Table:
    """Leakage estimates that decide nothing: other pools, personas, lambdas and seeds."""
    shown = pl.concat([select.leakage(analysis, *pair) for pair in select.contrasts(analysis)])
    frame = analysis.estimates.filter(pl.col("quantity") == "leakage_difference")
    rows = frame.join(shown, on=frame.columns, how="anti", nulls_equal=True)
    columns = [
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("pool", lambda row: row["pool"] if row["persona"] is None else row["persona"]),
        Column("λ", "lambda", numbers.plain),
        Column("seed", "seed", numbers.plain),
        Column("estimator", "estimator"),
        Column("difference", "estimate", numbers.points),
        Column(
            "95 % interval", lambda row: numbers.interval(row["ci_low"], row["ci_high"], numbers.points), str
        ),
        Column("p", "p_value", numbers.p_value),
        Column("interval and p speak for", _scope, align="long"),
    ]
    order = ["contrast", "pool", "persona", "lambda", "seed", "estimator"]
    return build("leakage-other", "Other pools, λ and seeds: reported, never deciding.", columns,
                 rows.sort(order).to_dicts())  # fmt: skip
