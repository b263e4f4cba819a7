from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import planted_evidence as evidence

from flatprobe.decision.evidence import Contrast
from flatprobe.decision.verdict import KnownOutcome
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.tables.known_answers import known_answers


def knowing(folder: Path, *outcomes: KnownOutcome) -> Analysis:
    analysis = read(folder)
    return replace(analysis, outcome=replace(analysis.verdict, known_answers=outcomes))


def known(effect: float | None, low: float | None, as_expected: bool) -> KnownOutcome:
    high = None if low is None else 0.5
    return KnownOutcome(
        treated="em_again",
        control="em_first",
        verdict="geometry_only",
        as_expected=as_expected,
        legs={"geometry": "reversed", "leakage": "not_found"},
        expected={"geometry": "not_found", "leakage": None},
        evidence=Contrast(evidence.geometric(effect, low, high), evidence.behavioural(0.0125, -0.05, 0.075, None)),
        reasons=(),
    )


def test_a_row_holds_both_effects_the_legs_and_what_they_had_to_be(folder: Path) -> None:
    table = known_answers(knowing(folder, known(0.3, 0.1, False)))
    assert table is not None
    (row,) = table.rows
    assert row == (
        "em_again − em_first", "+0.3000\n[+0.1000, +0.5000]", "reversed\nexpected: not found",
        "+1.2 pp\n[−5.0, +7.5] pp",
        "not found\nexpected: anything", "no",
    )  # fmt: skip


def test_an_effect_without_an_interval_is_shown_without_one(folder: Path) -> None:
    table = known_answers(knowing(folder, known(0.0, None, True)))
    assert table is not None
    assert table.rows[0][1] == "0.0000\n–" and table.rows[0][-1] == "yes"


def test_a_study_without_known_answers_has_no_such_table(folder: Path, page: str) -> None:
    assert known_answers(knowing(folder)) is None
    assert "Instrument check" not in page
