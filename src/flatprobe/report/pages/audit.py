"""The page of a mask audit: decoded training examples in the report's style."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatprobe.report.examples import Piece, TokenLine, visible
from flatprobe.report.pages.environment import write_html
from flatprobe.report.tables.masks import set_tables


def write_page(audit: Mapping[str, Any], output: Path) -> None:
    """Write one self-contained HTML file. Raises jinja2.UndefinedError for a missing value."""
    values = {"audit": audit, "sets": [_set(one) for one in audit["sets"]]}
    write_html("audit.html.j2", values, output)


def _set(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": one["name"],
        "slug": one["name"].replace("/", "-"),
        "size": one["size"],
        "origin": one["origin"],
        "tables": set_tables(one),
        "lines": [_line(example) for example in one["examples"]],
    }


def _line(example: Mapping[str, Any]) -> TokenLine:
    parts = (example["group"], example["persona"], example["question_id"])
    return TokenLine(", ".join(part for part in parts if part), tuple(map(_piece, example["tokens"])))


def _piece(token: Mapping[str, Any]) -> Piece:
    """A token with the terms that predict it; a finetune's answer has the colour of an anchor."""
    terms = [name for name, weight in token["weights"].items() if weight]
    kinds = ["anchor" if name == "answer" else name for name in terms]
    title = ", ".join(f"{name} × {token['weights'][name]:g}" for name in terms)
    return Piece(visible(token["text"]), " ".join([*kinds, *(["alternative"] if token["alternative"] else [])]), title)
