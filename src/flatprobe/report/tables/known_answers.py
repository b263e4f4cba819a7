"""The table of the instrument check: the rule's results on contrasts with a known answer."""

from __future__ import annotations

from collections.abc import Callable

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Row, Table, build
from flatprobe.report.words import spaced


def known_answers(analysis: Analysis) -> Table | None:
    """One row per contrast with a known answer; None if the study has none."""
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
        "Contrasts with a known answer, decided by the same rule. A leg is found if it passes, and not found if its "
        "interval lies within the threshold on both sides of 0. It is reversed if it would pass with the two "
        "conditions exchanged, and undecided in between. Not separable: the treated coupling does not separate the "
        "source from the negatives in teacher-forced log P, while the control’s does. Each leg is judged alone: "
        "coupling gates block only the behavioural leg. "
        f"Intervals: {analysis.geometric_level} for the geometric effect, {analysis.behavioural_level} for the "
        "leakage difference."
    )
    return build("known-answers", caption, columns, rows)


def _leg(name: str) -> Callable[[Row], str]:
    """A leg's answer and, below it, the expected one."""
    return lambda row: f"{_answer_text(row['legs'][name])}\nexpected: {_answer_text(row['expected'][name])}"


def _geometry(row: Row) -> str:
    evidence = row["evidence"]["geometry"]
    return (
        f"{numbers.signed(evidence['effect'])}\n{numbers.interval(evidence['ci_low'], evidence['ci_high'])}"
    )


def _leakage(row: Row) -> str:
    evidence = row["evidence"]["behaviour"]
    interval = numbers.interval(evidence["ci_low"], evidence["ci_high"], numbers.points)
    return f"{numbers.points(evidence['effect'])}\n{interval}"


def _answer_text(answer: str | None) -> str:
    return "anything" if answer is None else spaced(answer)
