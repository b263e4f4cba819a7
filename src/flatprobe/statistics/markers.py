"""Whether, how often and where a completion holds the marker."""

from __future__ import annotations

import polars as pl


def score(completions: pl.DataFrame, marker: str) -> pl.DataFrame:
    """Add the marker columns to rows with a `text`: strict match is containment, both in lower case.

    Lower case is Unicode's (`str.lower`), not case folding. `marker_count` counts markers that do not
    overlap. `marker_position` is the character at which the first marker begins, null without one; starting
    and ending ignore white space around the text.
    """
    lower, wanted = pl.col("text").str.to_lowercase(), marker.lower()
    trimmed = lower.str.strip_chars()
    return completions.with_columns(
        marker_present=lower.str.contains(wanted, literal=True),
        marker_count=lower.str.count_matches(wanted, literal=True).cast(pl.Int64),
        marker_position=lower.map_elements(lambda text: _position(text, wanted), return_dtype=pl.Int64),
        starts_with_marker=trimmed.str.starts_with(wanted),
        ends_with_marker=trimmed.str.ends_with(wanted),
    )


def _position(text: str, marker: str) -> int | None:
    place = text.find(marker)
    return None if place < 0 else place
