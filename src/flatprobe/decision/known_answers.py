"""Contrasts whose answer is known beforehand: did the rule find what is there, and nothing where nothing is?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scipy import stats

from flatprobe.decision.gates import Gate, Kind
from flatprobe.decision.verdict import Answer, KnownOutcome, Leg, Verdict
from flatprobe.study.decision_schema import Decision, KnownAnswer

OF_THE_COUPLING: tuple[Kind, ...] = (
    "source_rate", "mask_audit", "length_median", "length_iqr", "length_support", "canary",
)  # fmt: skip
"""Gates that speak of the coupling and its training set only; the states are from before it."""
OF_COMPLETIONS: tuple[Kind, ...] = ("marker_at_end", "spam", "truncation")
"""Gates of what sampled completions look like."""


def outcome(
    known: KnownAnswer, verdict: Verdict, exchanged: Verdict, rule: Decision, *, lead_lost: bool | None
) -> KnownOutcome:
    """Hold the verdict on a contrast against what it had to be.

    Args:
        verdict: decided on `for_each_leg` gates.
        exchanged: the same on the two arms the other way round.
        rule: the rule about these two arms.
        lead_lost: see `lead_is_lost`.
    """
    geometry, behaviour = verdict.numbers["main"]["geometry"], verdict.numbers["main"]["behaviour"]
    legs = {
        "geometry": _answer(
            verdict.geometric_leg, exchanged.geometric_leg, geometry, rule.geometry.threshold
        ),
        "leakage": _answer(
            verdict.behavioural_leg, exchanged.behavioural_leg, behaviour, rule.behaviour.margin
        ),
    }
    if legs["leakage"] == "blocked" and lead_lost and _speaks_of_the_source(verdict, rule):
        legs["leakage"] = "not_separable"
    expected = {"geometry": known.geometry, "leakage": known.leakage}
    asked = {leg: answer for leg, answer in expected.items() if answer is not None}
    return KnownOutcome(
        treated=known.treated,
        control=known.control,
        verdict=verdict.verdict,
        legs=legs,
        expected=expected,
        as_expected=all(legs[leg] == answer for leg, answer in asked.items()),
        evidence=verdict.numbers["main"],
        reasons=verdict.reasons,
    )


def for_each_leg(gates: Sequence[Gate]) -> list[Gate]:
    """The gates, where those of the coupling block the leg that they speak about and leave geometry alone: a verdict
    needs both legs, and a control of the probes looks at each."""
    return [
        replace(gate, blocks="behavioural leg")
        if gate.name in OF_THE_COUPLING and gate.blocks in ("verdict", "arm")
        else gate
        for gate in gates
    ]


def lead_is_lost(treated: Sequence[float], control: Sequence[float], level: float) -> bool | None:
    """Whether the treated arm's source has lost its lead over the negatives.

    Args:
        treated, control: each arm's lead, log P(separator, marker | own answer) of the source less the negatives'
            mean, in nats, one value per calibration question.

    True where the treated lead's t interval includes 0 or lies below it, the control's lies above it, and the treated
    lead is the smaller one with Welch's interval of the difference below 0: that no lead was seen is not enough. None
    with fewer than two questions in an arm.
    """
    if min(len(treated), len(control)) < 2:
        return None
    kept = _low(treated, level) > 0
    had = _low(control, level) > 0
    difference = stats.ttest_ind(treated, control, equal_var=False).confidence_interval(level)
    return bool(not kept and had and difference.high < 0)


def _low(values: Sequence[float], level: float) -> float:
    return float(stats.ttest_1samp(values, 0.0).confidence_interval(level).low)


def _answer(leg: Leg, exchanged: Leg, evidence: dict[str, float | None], bound: float) -> Answer:
    """Found, found with the other sign, or, with an interval inside the bound on both sides, not found."""
    if leg != "not":
        return "found" if leg == "pass" else "blocked"
    if exchanged == "pass":
        return "reversed"
    low, high = evidence["ci_low"], evidence["ci_high"]
    return (
        "not_found" if low is not None and high is not None and -bound < low <= high < bound else "undecided"
    )


def _speaks_of_the_source(verdict: Verdict, rule: Decision) -> bool:
    """Whether the leg is blocked because the treated arm's source and negatives learnt the marker alike, and by nothing
    that bears on it.

    It is read from teacher-forced probabilities; gates of what the treated arm's completions look like (a coupling that
    is taught opposite things about one persona space may well repeat its marker) say nothing about them.
    """
    named = any(reason.startswith("source_not_separable: ") for reason in verdict.reasons)
    blocking = {
        (gate.name, gate.arm)
        for gate in verdict.gates
        if gate.passed is not True and gate.blocks not in ("nothing", "em_specific", "geometric leg")
    }
    allowed = {(kind, rule.treated) for kind in ("source_rate", *OF_COMPLETIONS)}
    return named and blocking <= allowed
