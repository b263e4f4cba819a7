from __future__ import annotations

from dataclasses import replace

import pytest

from flatprobe.statistics.decision import decide
from flatprobe.statistics.evidence import BehaviouralEvidence, Contrast, GeometricEvidence
from flatprobe.statistics.gates import gate, required
from flatprobe.statistics.known_answers import for_each_leg, outcome
from flatprobe.statistics.verdict import Verdict
from flatprobe.study.decision_schema import Decision, Known, KnownAnswer

RULE = Decision(treated="new", control="old", benign=None)
GOOD = {
    "source_rate": 0.8,
    "marker_at_end": 0.95,
    "spam": 0.0,
    "truncation": 0.0,
    "headroom": 0.2,
    "analysis": 1.0,
}
THERE = Contrast(
    GeometricEvidence(0.10, 0.08, 0.12, {6: 0.1}, headroom=0.2),
    BehaviouralEvidence(0.30, 0.24, 0.36, 0.0002, 0.02, 0.9, 0.1, 0.8, 0.8),
)
NOTHING = Contrast(
    GeometricEvidence(0.0, 0.0, 0.0, {6: 0.0}, headroom=0.2),
    BehaviouralEvidence(0.01, -0.02, 0.04, 0.6, 0.7, 0.03, 1.0, 0.8, 0.8),
)


def verdict(contrast: Contrast, **changes: float) -> Verdict:
    return decide(
        RULE, contrast, [gate(kind, arm, (GOOD | changes)[kind], RULE) for kind, arm in required(RULE)]
    )


def turned(contrast: Contrast, **changes: float) -> Verdict:
    return verdict(contrast.exchanged(), **changes)


def known(geometry: Known | None, leakage: Known | None) -> KnownAnswer:
    return KnownAnswer(treated="new", control="old", geometry=geometry, leakage=leakage)


@pytest.mark.parametrize(
    ("contrast", "geometry", "leakage", "as_expected"),
    [
        (THERE, "found", "found", True),
        (THERE, "not_found", "found", False),
        (THERE, None, "found", True),
        (NOTHING, "not_found", "not_found", True),
        (NOTHING, "not_found", "found", False),
        (replace(THERE, geometry=NOTHING.geometry), "found", "found", False),
    ],
)
def test_every_leg_that_was_asked_must_come_out(
    contrast: Contrast, geometry: Known | None, leakage: Known | None, as_expected: bool
) -> None:
    result = outcome(known(geometry, leakage), verdict(contrast), turned(contrast))
    assert result.as_expected is as_expected


def test_an_effect_of_the_other_sign_is_no_null() -> None:
    result = outcome(known("not_found", "not_found"), turned(THERE), verdict(THERE))
    assert result.legs == {"geometry": "reversed", "leakage": "reversed"} and not result.as_expected
    assert not outcome(known("found", None), turned(THERE), verdict(THERE)).as_expected


def test_exchanged_evidence_is_that_of_the_exchanged_arms() -> None:
    assert THERE.exchanged().geometry.ci_low == -0.12 and THERE.exchanged().geometry.ci_high == -0.08
    assert THERE.exchanged().geometry.effects_by_layer == {6: -0.1}
    behaviour = THERE.exchanged().behaviour
    assert (behaviour.effect, behaviour.ci_low, behaviour.p_value) == (-0.30, -0.36, 0.0002)
    back = THERE.exchanged().exchanged()
    assert (back.geometry.effect, back.behaviour.ci_high) == (0.10, 0.36)


def learnt_alike(**failing: float) -> Verdict:
    """The rule on an arm whose source rate is low because source and negatives learnt the marker alike."""
    gates = [
        gate(kind, arm, (GOOD | ({"source_rate": 0.3} | failing if arm != "old" else {}))[kind], RULE)
        for kind, arm in required(RULE)
    ]
    return decide(RULE, THERE, for_each_leg(gates), source_reason="source_not_separable")


def test_a_source_that_is_no_longer_told_from_the_negatives_is_found_and_leaves_geometry_alone() -> None:
    flat = learnt_alike()
    result = outcome(known("found", "found"), flat, flat)
    assert result.legs == {"geometry": "pass", "leakage": "not_separable"} and result.as_expected
    assert not outcome(known(None, "not_found"), flat, flat).as_expected
    spammed = learnt_alike(spam=0.5, truncation=0.2)  # of completions, and it is read from probabilities
    assert outcome(known(None, "found"), spammed, spammed).as_expected
    blind = learnt_alike(analysis=0.5)
    assert outcome(known(None, "found"), blind, blind).legs["leakage"] == "blocked"
    failed = replace(flat, reasons=("coupling_failed: new: source_rate 0.3",))
    assert outcome(known(None, "found"), failed, failed).legs["leakage"] == "blocked"


@pytest.mark.parametrize("answer", ["found", "not_found"])
def test_a_blocked_leg_is_neither_found_nor_not_found(answer: Known) -> None:
    blocked = verdict(NOTHING, source_rate=0.1)
    result = outcome(known(answer, None), blocked, blocked)
    assert result.legs["geometry"] == "blocked" and not result.as_expected
    assert any("source_rate" in reason for reason in result.reasons)


def test_the_instrument_passes_only_with_every_answer_and_says_so_at_the_end() -> None:
    right = outcome(known("found", "found"), verdict(THERE), turned(THERE))
    wrong = outcome(known("not_found", None), verdict(THERE), turned(THERE))
    passed = replace(verdict(THERE), known_answers=(right, right))
    failed = replace(verdict(THERE), known_answers=(right, wrong))
    assert passed.instrument() == "Instrument check passed: 2 of 2 as expected"
    assert failed.instrument() == "Instrument check failed: 1 of 2 as expected"
    assert failed.headline().endswith(". Instrument check failed: 1 of 2 as expected")
    written = failed.to_json()
    assert written["instrument"] == failed.instrument()
    assert [entry["as_expected"] for entry in written["known_answers"]] == [True, False]


def test_a_study_without_known_answers_says_nothing_of_its_instrument() -> None:
    assert verdict(THERE).instrument() is None
    assert "nstrument" not in verdict(THERE).headline()
