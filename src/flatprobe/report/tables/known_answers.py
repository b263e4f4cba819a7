"""The controls of the instrument: what the rule made of contrasts whose answer was known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, build


def known_answers(analysis: Analysis) -> Table | None:
    """One row per contrast whose answer is known; None where the study has none."""
    rows = analysis.verdict["known_answers"]
    if not rows:
        return None
    columns = [
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("geometric effect", _geometry, str),
        Column("geometric leg", _leg("geometry")),
        Column("leakage difference", _leakage, str),
        Column("behavioural leg", _leg("leakage")),
        Column("as expected", lambda row: "yes" if row["as_expected"] else "no"),
    ]
    caption = (
        "Contrasts whose answer is known beforehand, decided by the same rule: what is there must be found, and where "
        "nothing is, nothing. A leg that passes is found. It is not found if its interval lies within the threshold on "
        "both sides of 0, reversed if it would pass with the two arms exchanged, and undecided in between. Not "
        "separable: unlike the control's, the treated arm's coupling cannot tell the source from the negatives, by "
        "teacher-forced probabilities. Each leg is judged for itself: gates of the coupling do not block geometry. "
        f"Intervals: {analysis.geometric_level} of the geometric effect, "
        f"{analysis.behavioural_level} of the leakage difference."
    )
    return build("known-answers", caption, columns, rows)


def _leg(name: str) -> Any:
    """A leg's state, and below it what it had to be."""
    return lambda row: f"{_spoken(row['legs'][name])}\nexpected: {_spoken(row['expected'][name])}"


def _geometry(row: Mapping[str, Any]) -> str:
    found = row["evidence"]["geometry"]
    return f"{numbers.signed(found['effect'])}\n{numbers.interval(found['ci_low'], found['ci_high'])}"


def _leakage(row: Mapping[str, Any]) -> str:
    found = row["evidence"]["behaviour"]
    interval = numbers.interval(found["ci_low"], found["ci_high"], numbers.points)
    return f"{numbers.points(found['effect'])}\n{interval}"


def _spoken(answer: str | None) -> str:
    return "anything" if answer is None else answer.replace("_", " ")
