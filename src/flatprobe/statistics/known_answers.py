"""Contrasts whose answer is known beforehand: did the rule find what is there, and nothing where nothing is?"""

from __future__ import annotations

from flatprobe.statistics.verdict import Answer, KnownOutcome, Leg, Verdict
from flatprobe.study.schema import Known, KnownAnswer

LEG_OF: dict[Known, Answer] = {"found": "pass", "not_found": "not"}
"""What an answer asks of a leg. A blocked leg answers nothing, so it is as expected for neither; one that passes with
the arms exchanged has found an effect of the other sign where there is none."""


def outcome(known: KnownAnswer, verdict: Verdict, exchanged: Verdict) -> KnownOutcome:
    """Hold the verdict on a contrast against what it had to be; `exchanged` is that on the same two arms the other way
    round."""
    legs = {
        "geometry": _answer(verdict.geometric_leg, exchanged.geometric_leg),
        "leakage": _answer(verdict.behavioural_leg, exchanged.behavioural_leg),
    }
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


def _answer(leg: Leg, exchanged: Leg) -> Answer:
    return "reversed" if leg == "not" and exchanged == "pass" else leg
