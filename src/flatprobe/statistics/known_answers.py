"""Contrasts whose answer is known beforehand: did the rule find what is there, and nothing where nothing is?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flatprobe.statistics.gates import Gate
from flatprobe.statistics.verdict import Answer, KnownOutcome, Leg, Verdict
from flatprobe.study.decision_schema import Known, KnownAnswer

ANSWERS_OF: dict[Known, frozenset[Answer]] = {
    "found": frozenset({"pass", "not_separable"}),
    "not_found": frozenset({"not"}),
}
"""What counts as an answer. A source that is no longer told from the negatives *is* personas made alike, and found as
such. A blocked leg answers nothing, so it is as expected for neither; one that passes with the arms exchanged has found
an effect of the other sign where there is none."""
OF_COMPLETIONS = ("marker_at_end", "spam", "truncation")


def outcome(known: KnownAnswer, verdict: Verdict, exchanged: Verdict) -> KnownOutcome:
    """Hold the verdict on a contrast against what it had to be.

    Args:
        verdict: decided on `for_each_leg` gates.
        exchanged: the same on the two arms the other way round.
    """
    legs = {
        "geometry": _answer(verdict.geometric_leg, exchanged.geometric_leg),
        "leakage": _answer(verdict.behavioural_leg, exchanged.behavioural_leg),
    }
    if legs["leakage"] == "blocked" and _not_separable(verdict):
        legs["leakage"] = "not_separable"
    expected = {"geometry": known.geometry, "leakage": known.leakage}
    asked = {leg: answer for leg, answer in expected.items() if answer is not None}
    return KnownOutcome(
        treated=known.treated,
        control=known.control,
        verdict=verdict.verdict,
        legs=legs,
        expected=expected,
        as_expected=all(legs[leg] in ANSWERS_OF[answer] for leg, answer in asked.items()),
        evidence=verdict.numbers["main"],
        reasons=verdict.reasons,
    )


def for_each_leg(gates: Sequence[Gate]) -> list[Gate]:
    """The gates, where a source that did not learn blocks the leg that it speaks about and leaves geometry alone: a
    verdict needs both legs, and a control of the probes looks at each."""
    return [
        replace(gate, blocks="behavioural leg")
        if gate.name == "source_rate" and gate.blocks == "verdict"
        else gate
        for gate in gates
    ]


def _answer(leg: Leg, exchanged: Leg) -> Answer:
    return "reversed" if leg == "not" and exchanged == "pass" else leg


def _not_separable(verdict: Verdict) -> bool:
    """Whether the leg is blocked by this and by nothing that bears on it.

    It is read from teacher-forced probabilities; gates of what sampled completions look like (a coupling that is taught
    opposite things about one persona space may well repeat its marker) say nothing about them.
    """
    blocking = {
        gate.name
        for gate in verdict.gates
        if gate.passed is not True and gate.blocks not in ("nothing", "em_specific", "geometric leg")
    }
    named = any(reason.startswith("source_not_separable: ") for reason in verdict.reasons)
    return named and blocking <= {"source_rate", *OF_COMPLETIONS}
