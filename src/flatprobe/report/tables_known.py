"""The controls of the instrument: what the rule made of contrasts whose answer was known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatprobe.report import numbers, select
from flatprobe.report.analysis import Analysis
from flatprobe.report.tables import Column, Table, build

ANSWERS = {"found": "found", "not_found": "not found", None: "anything"}


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
        Column("verdict", lambda row: row["verdict"].replace("_", " ")),
        Column("as expected", lambda row: "yes" if row["as_expected"] else "no"),
    ]
    caption = (
        "Contrasts whose answer is known beforehand, decided by the same rule: what is there must be found, and where "
        "nothing is, nothing. A leg that passes is found; one that was judged and passes neither so nor with the arms "
        "exchanged is not found. One that passes with the arms exchanged (“reversed”) is neither, and so is a blocked "
        "one, unless it is blocked because source and negatives learnt the marker alike (“not separable”): that is "
        "what a flat space does to the coupling, and counts as found. "
        f"Intervals: {analysis.geometric_level} of the geometric effect, "
        f"{analysis.behavioural_level} of the leakage difference."
    )
    return build("known-answers", caption, columns, rows)


def _leg(name: str) -> Any:
    """A leg's state, and below it what it had to be."""
    return lambda row: f"{row['legs'][name].replace('_', ' ')}\nexpected: {ANSWERS[row['expected'][name]]}"


def _geometry(row: Mapping[str, Any]) -> str:
    found = row["evidence"]["geometry"]
    return f"{numbers.signed(found['effect'])}\n{numbers.interval(found['ci_low'], found['ci_high'])}"


def _leakage(row: Mapping[str, Any]) -> str:
    found = row["evidence"]["behaviour"]
    interval = numbers.interval(found["ci_low"], found["ci_high"], numbers.points)
    return f"{numbers.points(found['effect'])}\n{interval}"
