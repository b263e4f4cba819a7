"""Examples to read: completions with the marker highlighted, answers side by side, masks and probed tokens.

A fixed rule chooses them (first questions, first samples). Texts are cut into labelled pieces here; the template
escapes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from flatprobe.report.analysis_folder import Analysis

HEAD, TAIL = 500, 200
"""Characters shown at either end of a long stretch of an example."""
PARTS = 21
"""Texts and markers shown of one example: ten markers are enough."""
WINDOW = 14
"""Tokens shown on either side of the probed one."""
QUESTIONS = 2


@dataclass(frozen=True)
class Piece:
    """A piece of text, highlighted if `kind` is not empty."""

    text: str
    kind: str = ""
    title: str = ""


@dataclass(frozen=True)
class Example:
    """One text of one condition, cut into pieces."""

    condition: str
    pieces: tuple[Piece, ...]
    facts: str


@dataclass(frozen=True)
class Group:
    """The same persona and question under every condition."""

    title: str
    question: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TokenLine:
    """A row of tokens with its title."""

    title: str
    pieces: tuple[Piece, ...]


def chosen_personas(analysis: Analysis) -> list[tuple[str, str]]:
    """(description, persona): source, closest and farthest bystander by the control's cosine, first negative."""
    roles = [(row["persona"], row["role"]) for row in analysis.tables["panel"].to_dicts()]
    bystanders = [name for name, role in roles if role == "bystander"]
    near = (
        analysis.at_registered_position("cosines")
        .filter((pl.col("condition") == analysis.control) & pl.col("persona").is_in(bystanders))
        .group_by("persona")
        .agg(pl.col("cosine").mean())
        .sort("cosine", "persona", descending=[True, False])["persona"]
        .to_list()
    )
    negatives = [name for name, role in roles if role == "negative"]
    chosen = [("source", analysis.source)]
    chosen += [("closest bystander", near[0]), ("farthest bystander", near[-1])] if len(near) > 1 else []
    return chosen + [("negative", name) for name in negatives[:1]]


def completions(analysis: Analysis) -> list[Group]:
    """The first sample of the first questions, per chosen persona and condition."""
    rows = analysis.at_selected_lambda("completions").filter(pl.col("coupled"))
    rows = rows.filter(pl.col("seed") == rows["seed"].min()).sort("question_id", "sample_index")
    rows = rows.unique(["condition", "persona", "question_id"], keep="first", maintain_order=True)
    return _groups(analysis, rows, marker=analysis.marker)


def answers(analysis: Analysis) -> list[Group]:
    """Own answers of the uncoupled checkpoints, per chosen persona and condition."""
    return _groups(analysis, analysis.tables["responses"], marker=None)


def _groups(analysis: Analysis, rows: pl.DataFrame, marker: str | None) -> list[Group]:
    texts = {row["id"]: row["text"] for row in analysis.tables["questions"].to_dicts()}
    questions = sorted(set(rows["question_id"]))[:QUESTIONS]
    at = {(row["persona"], row["question_id"], row["condition"]): row for row in rows.to_dicts()}
    groups = []
    for description, persona in chosen_personas(analysis):
        for question in questions:
            keys = [(persona, question, name) for name in analysis.conditions]
            examples = tuple(
                Example(row["condition"], marked(row["text"], marker), _facts(row))
                for row in (at[key] for key in keys if key in at)
            )
            groups.append(Group(f"{persona}, {description}", texts[question], examples))
    return groups


def _facts(row: dict[str, Any]) -> str:
    end = "" if row["finish_reason"] == "stop" else ", cut off at the limit"
    return f"{row['tokens']} tokens{end}"


def marked(text: str, marker: str | None) -> tuple[Piece, ...]:
    """Cut a text at every occurrence of the marker, in any case, as the strict match does.

    Long texts without a marker lose their middle, so that the end of an answer is always visible.
    """
    parts = [text] if marker is None else re.split(f"({re.escape(marker)})", text, flags=re.IGNORECASE)
    pieces: list[Piece] = []
    for index, part in enumerate(parts[:PARTS]):
        if index % 2:
            pieces.append(Piece(part, "marker"))
        elif len(part) > HEAD + TAIL:
            hidden = len(part) - HEAD - TAIL
            pieces += [Piece(part[:HEAD]), Piece(f" … {hidden:,} characters … ", "cut"), Piece(part[-TAIL:])]
        elif part:
            pieces.append(Piece(part))
    if len(parts) > PARTS:
        pieces.append(Piece(f" … and {(len(parts) - PARTS + 1) // 2:,} more markers", "cut"))
    return tuple(pieces)


def masks(analysis: Analysis) -> list[TokenLine]:
    """Decoded training examples, every token with its loss terms."""
    return [
        TokenLine(
            f"{row['condition']}, {row['persona']}, {row['group']}",
            tuple(_mask_piece(token) for token in row["tokens"]),
        )
        for row in analysis.audit
    ]


def _mask_piece(token: dict[str, Any]) -> Piece:
    """A token and its loss terms; an alternative is predicted instead of the row's next token."""
    terms = [name for name, weight in token["weights"].items() if weight]
    kinds = [*terms, "alternative"] if token["alternative"] else terms
    title = ", ".join(f"{name} {token['weights'][name]:g}" for name in terms)
    return Piece(visible(token["text"]), " ".join(kinds), title)


def visible(text: str) -> str:
    """Token text with visible line breaks and tabs."""
    return text.replace("\n", "↵\n").replace("\t", "⇥")


def probed(analysis: Analysis) -> list[tuple[str, list[TokenLine]]]:
    """Per position, the tokens around the one whose state is read; for a mean, around its last token."""
    return [
        (position, [_probed_line(row, position.endswith("_mean")) for row in rows])
        for position, rows in analysis.preview.items()
    ]


def _probed_line(row: dict[str, Any], mean: bool) -> TokenLine:
    index, tokens = row["index"], row["tokens"]
    start, stop = max(0, index - WINDOW), min(len(tokens), index + WINDOW + 1)
    pieces = [Piece("… ", "cut")] if start else []
    pieces += [Piece(visible(tokens[at]), "probed" if at == index else "") for at in range(start, stop)]
    pieces += [Piece(" …", "cut")] if stop < len(tokens) else []
    note = ", mean up to the highlighted token" if mean else ""
    return TokenLine(f"{row['persona']}, {row['question_id']}{note}", tuple(pieces))
