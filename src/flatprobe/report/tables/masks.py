"""Tables of a mask audit: what holds for every example, how much is labelled, and what stands around the marker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.examples import visible
from flatprobe.report.tables.run import ordered
from flatprobe.report.tables.table import Column, Table, build

Rows = Iterable[Mapping[str, Any]]
SIDES = ("training: positive", "training: negative", "evaluation")
MOST = 6
"""Tokens listed per place; the rest is summed up."""


def invariants_table(name: str, rows: Rows, of: Sequence[Column] = ()) -> Table:
    """Invariants and the examples that they hold for; `of` are columns that say of which set."""
    columns = [
        *of, Column("invariant", "invariant"), Column("held", "held", numbers.plain),
        Column("of", "examples", numbers.plain),
    ]  # fmt: skip
    return build(name, "Invariants, and the examples that they hold for.", columns, rows)


def shares_table(name: str, rows: Rows, of: Sequence[Column] = ()) -> Table:
    """Labelled tokens per group and term."""
    columns = [
        *of, Column("group", "group"), Column("term", "term"), Column("labelled", "labelled", numbers.plain),
        Column("of", "tokens", numbers.plain), Column("share", "share", numbers.percent),
    ]  # fmt: skip
    return build(name, "Tokens that a term predicts, of all tokens of the group's rows.", columns, rows)


def invariants(analysis: Analysis) -> Table | None:
    """Of every condition's training set, at the selected lambda."""
    rows = _rows(analysis, "invariants")
    return None if rows is None else invariants_table("invariants", rows, _of())


def shares(analysis: Analysis) -> Table | None:
    """Of every condition's training set, at the selected lambda."""
    rows = _rows(analysis, "shares")
    return None if rows is None else shares_table("shares", rows, _of())


def contexts(analysis: Analysis) -> Table | None:
    """Tokens around the marker, in training and in completions side by side, as shares of what was seen at a place."""
    if "contexts" not in analysis.tables:
        return None
    counts = ordered(analysis, analysis.at_selected_lambda("contexts"))
    rows: list[dict[str, Any]] = []
    for (condition, place), seen in counts.group_by(["condition", "place"], maintain_order=True):
        rows += _histogram(str(condition), str(place), seen)
    columns = [
        Column("condition", "condition"),
        Column("place", "place"),
        Column("token", lambda row: "and all others" if row["token"] is None else in_a_line(row["token"])),
        *(Column(side, side, numbers.percent) for side in SIDES),
    ]
    caption = (
        "Which tokens stand before the marker and behind the answer, where the coupling was trained and in the "
        f"completions at λ = {analysis.selected_lambda:g}. In negatives the marker is the one that must not come. A "
        "token that one side has and the other has not is a slot that training and evaluation do not share."
    )
    return build("contexts", caption, columns, rows)


def _histogram(condition: str, place: str, seen: pl.DataFrame) -> list[dict[str, Any]]:
    """The most frequent tokens of one place, then all others under no token; a side without any token is null."""
    totals = {side: int(seen.filter(pl.col("where") == side)["count"].sum()) for side in SIDES}
    by_token: dict[str, dict[str, int]] = {}
    for row in seen.to_dicts():
        sides = by_token.setdefault(row["token"], dict.fromkeys(SIDES, 0))
        sides[row["where"]] += row["count"]

    def share(counts: Mapping[str, int]) -> dict[str, float | None]:
        return {side: counts[side] / totals[side] if totals[side] else None for side in SIDES}

    shown = sorted(
        by_token, key=lambda token: -max(value or 0.0 for value in share(by_token[token]).values())
    )
    rest = {side: sum(by_token[token][side] for token in shown[MOST:]) for side in SIDES}
    head = {"condition": condition, "place": place}
    rows: list[dict[str, Any]] = [
        {**head, "token": token, **share(by_token[token])} for token in shown[:MOST]
    ]
    return [*rows, *([{**head, "token": None, **share(rest)}] if any(rest.values()) else [])]


def in_a_line(token: str) -> str:
    """A token's text for a cell, line breaks as signs."""
    return visible(token).replace("\n", "")


def _rows(analysis: Analysis, table: str) -> list[dict[str, Any]] | None:
    if table not in analysis.tables:
        return None
    return ordered(analysis, analysis.at_selected_lambda(table)).to_dicts()


def _of() -> tuple[Column, Column]:
    return Column("condition", "condition"), Column("seed", "seed", numbers.plain)
