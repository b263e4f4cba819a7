"""Contrasts whose answer is known beforehand: did the rule find what is there, and nothing where nothing is?"""

from __future__ import annotations

from flatprobe.statistics.verdict import KnownOutcome, Leg, Verdict
from flatprobe.study.schema import Known, KnownAnswer

LEG_OF: dict[Known, Leg] = {"found": "pass", "not_found": "not"}
"""The state of a leg that an answer stands for. A blocked leg answers nothing, so it is as expected for neither."""


def outcome(known: KnownAnswer, verdict: Verdict) -> KnownOutcome:
    """Hold the verdict on a contrast against what it had to be."""
    legs = {"geometry": verdict.geometric_leg, "leakage": verdict.behavioural_leg}
    expected = {"geometry": known.geometry, "leakage": known.leakage}
    asked = {leg: answer for leg, answer in expected.items() if answer is not None}
    return KnownOutcome(
        treated=known.treated,
        control=known.control,
        verdict=verdict.verdict,
        legs=legs,
        expected=expected,
        as_expected=all(legs[leg] == LEG_OF[answer] for leg, answer in asked.items()),
        evidence=verdict.numbers["main"],
        reasons=verdict.reasons,
    )
