from __future__ import annotations

from dataclasses import replace

import pytest
from planted_evidence import behavioural, geometric

from flatprobe.decision.evidence import Contrast
from flatprobe.decision.gates import gate, required
from flatprobe.decision.known_answers import for_each_leg, lead_is_lost, outcome
from flatprobe.decision.rule import decide
from flatprobe.decision.verdict import KnownOutcome, Verdict
from flatprobe.study.decision_schema import Decision, Known, KnownAnswer, KnownLeakage

RULE = Decision(treated="new", control="old", benign=None)
GOOD = {"source_rate": 0.8, "marker_at_end": 0.95, "spam": 0.0, "truncation": 0.0, "headroom": 0.2, "analysis": 1.0}
PRESENT = Contrast(
    geometric(0.10, 0.08, 0.12, {6: 0.1}, headroom=0.2),
    behavioural(0.30, 0.24, 0.36, 0.0002, 0.02, 0.9, 0.1, (0.8, 0.8)),
)
ABSENT = Contrast(
    geometric(0.0, 0.0, 0.0, {6: 0.0}, headroom=0.2), behavioural(0.01, -0.02, 0.04, 0.6, 0.7, 0.03, 1.0, (0.8, 0.8))
)


def verdict(contrast: Contrast, **changes: float) -> Verdict:
    return decide(RULE, contrast, [gate(kind, arm, (GOOD | changes)[kind], RULE) for kind, arm in required(RULE)])


def exchanged(contrast: Contrast, **changes: float) -> Verdict:
    return verdict(contrast.exchanged(), **changes)


def known(geometry: Known | None, leakage: KnownLeakage | None) -> KnownAnswer:
    return KnownAnswer(treated="new", control="old", geometry=geometry, leakage=leakage)


def compared(known: KnownAnswer, verdict: Verdict, exchanged: Verdict, lead_lost: bool | None = False) -> KnownOutcome:
    return outcome(known, verdict, exchanged, RULE, lead_lost=lead_lost)


@pytest.mark.parametrize(
    ("contrast", "geometry", "leakage", "as_expected"),
    [
        (PRESENT, "found", "found", True),
        (PRESENT, "not_found", "found", False),
        (PRESENT, None, "found", True),
        (ABSENT, "not_found", "not_found", True),
        (ABSENT, "not_found", "found", False),
        (ABSENT, None, "not_separable", False),
        (replace(PRESENT, geometry=ABSENT.geometry), "found", "found", False),
    ],
)
def test_every_leg_with_an_expected_answer_must_give_it(
    contrast: Contrast, geometry: Known | None, leakage: KnownLeakage | None, as_expected: bool
) -> None:
    result = compared(known(geometry, leakage), verdict(contrast), exchanged(contrast))
    assert result.as_expected is as_expected


def test_an_effect_of_the_other_sign_is_no_null() -> None:
    result = compared(known("not_found", "not_found"), exchanged(PRESENT), verdict(PRESENT))
    assert result.legs == {"geometry": "reversed", "leakage": "reversed"} and not result.as_expected
    assert not compared(known("found", None), exchanged(PRESENT), verdict(PRESENT)).as_expected


def test_an_effect_that_is_only_not_significant_is_undecided() -> None:
    wide = Contrast(
        geometric(0.04, -0.02, 0.10, {6: 0.04}, headroom=0.2),
        replace(ABSENT.behaviour, effect=0.33, ci_low=0.05, ci_high=0.61, p_value=0.02),
    )
    result = compared(known("not_found", "not_found"), verdict(wide), exchanged(wide))
    assert result.legs == {"geometry": "undecided", "leakage": "undecided"} and not result.as_expected
    unknown = replace(ABSENT, geometry=replace(ABSENT.geometry, ci_low=None, ci_high=None))
    assert compared(known("not_found", None), verdict(unknown), exchanged(unknown)).legs["geometry"] == "undecided"


def test_exchanged_evidence_is_that_of_the_exchanged_arms() -> None:
    contrast = replace(
        PRESENT,
        geometry=replace(PRESENT.geometry, persona_ci_low=0.01, persona_ci_high=0.2),
        behaviour=replace(PRESENT.behaviour, source_rate_treated=0.7, source_rate_control=0.9),
    )
    other_way = contrast.exchanged()
    assert other_way.geometry.ci_low == -0.12 and other_way.geometry.ci_high == -0.08
    assert (other_way.geometry.persona_ci_low, other_way.geometry.persona_ci_high) == (-0.2, -0.01)
    assert other_way.geometry.effects_by_layer == {6: -0.1}
    behaviour = other_way.behaviour
    assert (behaviour.effect, behaviour.ci_low, behaviour.p_value) == (-0.30, -0.36, 0.0002)
    assert (behaviour.source_rate_treated, behaviour.source_rate_control) == (0.9, 0.7)
    back = other_way.exchanged()
    assert (back.geometry.effect, back.behaviour.ci_high) == (0.10, 0.36)


def learnt_alike(arms: tuple[str, ...] = ("new",), **failing: float) -> Verdict:
    """The rule where arms have a low source rate because source and negatives learnt the marker alike."""
    gates = [
        gate(kind, arm, (GOOD | ({"source_rate": 0.3} | failing if arm in arms else {}))[kind], RULE)
        for kind, arm in required(RULE)
    ]
    return decide(RULE, PRESENT, for_each_leg(gates), source_reason="source_not_separable")


def test_a_source_that_became_inseparable_from_the_negatives_is_a_separate_answer() -> None:
    flat, question = learnt_alike(), known("found", "not_separable")
    result = compared(question, flat, flat, lead_lost=True)
    assert result.legs == {"geometry": "found", "leakage": "not_separable"} and result.as_expected
    for other in ("found", "not_found"):
        assert not compared(known(None, other), flat, flat, lead_lost=True).as_expected  # type: ignore[arg-type]
    for unseen in (False, None):
        assert compared(question, flat, flat, lead_lost=unseen).legs["leakage"] == "blocked"
    spammed = learnt_alike(spam=0.5, truncation=0.2)  # gates on completions; separability is measured by probabilities
    assert compared(question, spammed, spammed, lead_lost=True).as_expected


def test_not_separable_needs_that_nothing_else_failed() -> None:
    question = known(None, "not_separable")
    for other in (
        learnt_alike(("new", "study"), analysis=0.5),
        learnt_alike(("new", "old")),
        replace(learnt_alike(), reasons=("coupling_failed: new: source_rate 0.3",)),
    ):
        assert compared(question, other, other, lead_lost=True).legs["leakage"] == "blocked"


def test_gates_of_the_coupling_block_only_the_behavioural_leg() -> None:
    gates = for_each_leg(
        [gate("length_iqr", "new", 0.5, RULE), gate("merge_kl", "new", 1.0, RULE), gate("spam", "new", 0.5, RULE)]
    )
    assert [one.blocks for one in gates] == ["behavioural leg", "arm", "behavioural leg"]
    assert for_each_leg([gate("source_rate", "third", 0.1, RULE)])[0].blocks == "nothing"


@pytest.mark.parametrize(
    ("treated", "control", "lost"),
    [
        ([0.3, 1.7, 3.4, -0.6, -0.7, -0.7], [19.0, 14.0, 13.0, 16.0], True),
        ([0.3, 1.7, 3.4, -0.6, -0.7, -0.7], [1.0, -1.0, 2.0, 0.5], False),  # the control had no lead
        ([9.0, 10.0, 8.0, 11.0], [19.0, 14.0, 13.0, 16.0], False),  # smaller, but still a lead
        ([-20.0, 30.0, -10.0, 25.0], [6.0, 5.0, 7.0, 6.0], False),  # too noisy to show a loss
        ([0.5], [19.0, 14.0], None),
    ],
)
def test_a_lost_lead_was_seen_in_the_control_and_is_smaller_in_the_treated(
    treated: list[float], control: list[float], lost: bool | None
) -> None:
    assert lead_is_lost(treated, control, 0.95) is lost


@pytest.mark.parametrize("answer", ["found", "not_found"])
def test_a_blocked_leg_is_neither_found_nor_not_found(answer: Known) -> None:
    blocked = verdict(ABSENT, source_rate=0.1)
    result = compared(known(answer, None), blocked, blocked)
    assert result.legs["geometry"] == "blocked" and not result.as_expected
    assert any("source_rate" in reason for reason in result.reasons)


def test_the_instrument_passes_only_with_every_answer_and_ends_the_headline() -> None:
    right = compared(known("found", "found"), verdict(PRESENT), exchanged(PRESENT))
    wrong = compared(known("not_found", None), verdict(PRESENT), exchanged(PRESENT))
    passed = replace(verdict(PRESENT), known_answers=(right, right))
    failed = replace(verdict(PRESENT), known_answers=(right, wrong))
    assert passed.instrument() == "Instrument check passed: 2 of 2 as expected"
    assert failed.instrument() == "Instrument check failed: 1 of 2 as expected"
    assert failed.headline().endswith(". Instrument check failed: 1 of 2 as expected")
    written = failed.to_json()
    assert written["instrument"] == failed.instrument()
    assert [entry["as_expected"] for entry in written["known_answers"]] == [True, False]


def test_a_study_without_known_answers_has_no_instrument_line() -> None:
    assert verdict(PRESENT).instrument() is None
    assert "nstrument" not in verdict(PRESENT).headline()
