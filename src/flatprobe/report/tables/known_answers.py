"""The table of the instrument check: the rule's results on contrasts with a known answer."""

from __future__ import annotations

from collections.abc import Callable

from flatprobe.decision.verdict import KnownOutcome
from flatprobe.report import select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables import legs
from flatprobe.report.tables.table import Column, Table, build
from flatprobe.report.words import spaced


def known_answers(analysis: Analysis) -> Table | None:
    """One row per contrast with a known answer; None if the study has none."""
    outcomes = analysis.verdict.known_answers
    if not outcomes:
        return None
    columns = [
        Column("contrast", lambda outcome: select.contrast_name(outcome.treated, outcome.control)),
        Column("geometric effect", lambda outcome: legs.geometric_effect(outcome.evidence.geometry), str),
        Column("geometric leg", _leg("geometry")),
        Column("leakage difference", lambda outcome: legs.leakage_difference(outcome.evidence.behaviour), str),
        Column("behavioural leg", _leg("leakage")),
        Column("as expected", lambda outcome: "yes" if outcome.as_expected else "no"),
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
    return build("known-answers", caption, columns, outcomes)


def _leg(name: str) -> Callable[[KnownOutcome], str]:
    """A leg's answer and, below it, the expected one."""
    return lambda outcome: f"{_answer_text(outcome.legs[name])}\nexpected: {_answer_text(outcome.expected[name])}"


def _answer_text(answer: str | None) -> str:
    return "anything" if answer is None else spaced(answer)
