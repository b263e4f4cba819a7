"""How well the surface of an answer (its length, and simple marks of its format) alone predicts the marker."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from flatprobe.errors import UserError
from flatprobe.statistics.binding.logistic import cross_validated_auc

LENGTH = ("log_characters",)
FORMAT = (
    "paragraphs", "list_items", "headings", "bold", "code", "questions", "exclamations", "quotes", "digits",
    "ends_in_punctuation",
)  # fmt: skip
FEATURES = {"length": LENGTH, "length and format": (*LENGTH, *FORMAT)}
FEWEST = 5
"""Completions with, and without, the marker below which no model is fitted."""
COLUMNS = {
    "personas": pl.String, "features": pl.String, "auc": pl.Float64, "completions": pl.Int64, "marked": pl.Int64,
    "note": pl.String,
}  # fmt: skip


def predictability(scored: pl.DataFrame, bystanders: list[str]) -> pl.DataFrame:
    """Cross-validated AUC of the marker from the surface of what stands before it, over questions unseen in training.

    Args:
        scored: completions with persona, question_id, text, marker_present and marker_position. A marked text is cut at
            its first marker, so that the marker's own characters give nothing away.
        bystanders: besides all personas, these are looked at alone: among them no persona was trained on.

    Returns:
        `COLUMNS`, one row per set of personas and of features; `auc` is null where too few completions are marked, or
        unmarked, and `note` says so.

    Raises:
        UserError: no completions.
    """
    if scored.is_empty():
        raise UserError.one("surface.TODO", "binding", "no completions to predict the marker in")
    sets = {"all": scored, "bystanders": scored.filter(pl.col("persona").is_in(bystanders))}
    rows: list[tuple[str, str, float | None, int, int, str | None]] = []
    for name, frame in sets.items():
        labels = frame["marker_present"].cast(pl.Float64).to_numpy()
        marked = int(labels.sum())
        texts = [text[:place] for text, place in frame.select("text", "marker_position").iter_rows()]
        few = min(marked, len(labels) - marked) < FEWEST
        for kind, features in FEATURES.items():
            found = None
            if not few:
                table = np.array([[surface(text)[feature] for feature in features] for text in texts])
                found = cross_validated_auc(table, labels, frame["question_id"].to_list())
            note = f"fewer than {FEWEST} completions with, or without, the marker" if few else None
            if not few and found is None:
                note = "the marker occurs on too few questions"
            rows.append((name, kind, found, len(labels), marked, note))
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def surface(text: str) -> dict[str, float]:
    """Length and format of a text; counts enter as log(1 + count)."""
    body = text.strip()
    counts = {
        "paragraphs": len(re.findall(r"\n\s*\n", body)),
        "list_items": len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s", body, re.MULTILINE)),
        "headings": len(re.findall(r"^#+\s", body, re.MULTILINE)),
        "bold": body.count("**") // 2,
        "code": body.count("`"),
        "questions": body.count("?"),
        "exclamations": body.count("!"),
        "quotes": len(re.findall(r"[\"“”]", body)),
        "digits": len(re.findall(r"\d", body)),
        "log_characters": len(body),
    }
    ending = float(body.endswith((".", "!", "?", "…", '"', "”")))
    return {name: float(np.log1p(count)) for name, count in counts.items()} | {"ends_in_punctuation": ending}
