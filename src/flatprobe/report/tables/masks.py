"""Tables of a mask audit: invariants of the examples, labelled tokens, and the tokens around the marker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.examples import visible
from flatprobe.report.tables.run import ordered
from flatprobe.report.tables.table import Column, Row, Table, build

SIDES = ("training: finetune", "training: positive", "training: negative", "evaluation")
MOST = 6
"""Tokens listed per place; all others share one row."""


def set_tables(audit: Row) -> list[Table]:
    """Invariants, labelled tokens and token contexts of one training set of `flatprobe audit`."""
    part = audit["name"].replace("/", "-")
    counts = pl.DataFrame(audit["contexts"], schema=["place", "where", "token", "count"])
    caption = f"Tokens around the marker and after the answers. Evaluation: {audit['evaluation']}."
    return [
        _invariants(audit["invariants"], part=part),
        _shares(audit["shares"], part=part),
        _contexts(caption, counts.sort("place", maintain_order=True), part=part),
    ]


def _invariants(rows: Iterable[Row], of: Sequence[Column] = (), part: str = "") -> Table:
    """Invariants, and how many examples satisfy them; the columns `of` name the training set."""
    columns = [
        *of,
        Column("invariant", "invariant"),
        Column("passed", "held", numbers.plain),
        Column("examples", "examples", numbers.plain),
    ]
    return build("invariants", "Invariants, and how many examples satisfy them.", columns, rows, part)


def _shares(rows: Iterable[Row], of: Sequence[Column] = (), part: str = "") -> Table:
    """Labelled tokens per group and term."""
    columns = [
        *of,
        Column("group", "group"),
        Column("term", "term"),
        Column("labelled", "labelled", numbers.plain),
        Column("tokens", "tokens", numbers.plain),
        Column("share", "share", numbers.percent),
    ]
    caption = "Labelled tokens: those that a term predicts, of all tokens of the group’s examples."
    return build("shares", caption, columns, rows, part)


def invariants(analysis: Analysis) -> Table | None:
    """Of every condition's training set, at the selected lambda."""
    rows = _rows(analysis, "invariants")
    return None if rows is None else _invariants(rows, _set_columns())


def shares(analysis: Analysis) -> Table | None:
    """Of every condition's training set, at the selected lambda."""
    rows = _rows(analysis, "shares")
    return None if rows is None else _shares(rows, _set_columns())


def contexts(analysis: Analysis) -> Table | None:
    """Tokens around the marker, in training and in completions side by side, as shares of all tokens at a place."""
    if "contexts" not in analysis.tables:
        return None
    counts = ordered(analysis, analysis.at_selected_lambda("contexts"))
    caption = (
        "Tokens before the marker and after the answer, in the coupling’s training examples and in the completions at "
        f"λ = {analysis.selected_lambda:g}. In negatives, the marker is the one that must not follow. A token on one "
        "side only means that training and evaluation use different slots."
    )
    return _contexts(caption, counts, [Column("condition", "condition")])


def _contexts(caption: str, counts: pl.DataFrame, of: Sequence[Column] = (), part: str = "") -> Table:
    """Shares of the most frequent tokens per place, a column per set of texts.

    `counts` has the columns place, where, token and count, and may have condition.
    """
    sides = [side for side in SIDES if side in set(counts["where"])]
    keys = [name for name in ("condition", "place") if name in counts.columns]
    rows: list[dict[str, Any]] = []
    for values, tokens in counts.group_by(keys, maintain_order=True):
        rows += [{**dict(zip(keys, values, strict=True)), **shares} for shares in _histogram(tokens, sides)]
    columns = [
        *of,
        Column("place", "place"),
        Column("token", lambda row: "and all others" if row["token"] is None else _in_a_line(row["token"])),
        *(Column(side, side, numbers.percent) for side in sides),
    ]
    return build("contexts", caption, columns, rows, part)


def _histogram(counts: pl.DataFrame, sides: Sequence[str]) -> list[dict[str, Any]]:
    """Shares of the most frequent tokens of one place, then of all others, whose token is None.

    A side without any token has None.
    """
    totals = {side: int(counts.filter(pl.col("where") == side)["count"].sum()) for side in sides}
    by_token: dict[str, dict[str, int]] = {}
    for row in counts.to_dicts():
        by_token.setdefault(row["token"], dict.fromkeys(sides, 0))[row["where"]] += row["count"]

    def shares(tokens: dict[str, int]) -> dict[str, float | None]:
        return {side: tokens[side] / totals[side] if totals[side] else None for side in sides}

    frequent = sorted(by_token, key=lambda token: -max(share or 0.0 for share in shares(by_token[token]).values()))
    rest = {side: sum(by_token[token][side] for token in frequent[MOST:]) for side in sides}
    rows = [{"token": token, **shares(by_token[token])} for token in frequent[:MOST]]
    return [*rows, *([{"token": None, **shares(rest)}] if any(rest.values()) else [])]


def _in_a_line(token: str) -> str:
    """A token's text for a cell, with signs for line breaks."""
    return visible(token).replace("\n", "")


def _rows(analysis: Analysis, table: str) -> list[dict[str, Any]] | None:
    if table not in analysis.tables:
        return None
    return ordered(analysis, analysis.at_selected_lambda(table)).to_dicts()


def _set_columns() -> tuple[Column, Column]:
    return Column("condition", "condition"), Column("seed", "seed", numbers.plain)
