"""The page of a mask audit: the report's style around decoded training examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatprobe.report import numbers
from flatprobe.report.examples import Piece, TokenLine, visible
from flatprobe.report.pages.environment import write_html
from flatprobe.report.tables.masks import in_a_line, invariants_table, shares_table
from flatprobe.report.tables.table import Column, Table, build


def write_page(audit: Mapping[str, Any], output: Path) -> None:
    """Write one self-contained HTML file. Raises jinja2.UndefinedError where the page shows what is not there."""
    values = {"audit": audit, "sets": [_set(one) for one in audit["sets"]]}
    write_html("audit.html.j2", values, output)


def _set(one: Mapping[str, Any]) -> dict[str, Any]:
    slug = one["name"].replace("/", "-")
    return {
        "name": one["name"], "slug": slug, "size": one["size"], "origin": one["origin"],
        "invariants": invariants_table(f"invariants-{slug}", one["invariants"]),
        "shares": shares_table(f"shares-{slug}", one["shares"]),
        "contexts": _contexts(one, slug),
        "lines": [_line(example) for example in one["examples"]],
    }  # fmt: skip


def _contexts(one: Mapping[str, Any], slug: str) -> Table:
    rows = sorted(one["contexts"], key=lambda row: (row["place"], row["where"], -row["count"]))
    return build(
        f"contexts-{slug}", f"Tokens around the marker and behind answers. Evaluation: {one['evaluation']}.",
        [
            Column("place", "place"), Column("in", "where"), Column("token", lambda row: in_a_line(row["token"])),
            Column("count", "count", numbers.plain),
        ],
        rows,
    )  # fmt: skip


def _line(example: Mapping[str, Any]) -> TokenLine:
    parts = (example["group"], example["persona"], example["question_id"])
    return TokenLine(", ".join(part for part in parts if part), tuple(map(_piece, example["tokens"])))


def _piece(token: Mapping[str, Any]) -> Piece:
    """A token with the terms that predict it; a finetune's answer is coloured as an anchor is."""
    terms = [name for name, weight in token["weights"].items() if weight]
    kinds = ["anchor" if name == "answer" else name for name in terms]
    title = ", ".join(f"{name} × {token['weights'][name]:g}" for name in terms)
    return Piece(
        visible(token["text"]), " ".join([*kinds, *(["alternative"] if token["alternative"] else [])]), title
    )
