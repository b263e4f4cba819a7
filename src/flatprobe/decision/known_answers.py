"""Contrasts whose answer is known beforehand: does the rule find the planted effects, and no others?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scipy import stats

from flatprobe.decision.evidence import BehaviouralEvidence, GeometricEvidence
from flatprobe.decision.gates import Gate, GateName
from flatprobe.decision.verdict import Answer, KnownOutcome, LegResult, Verdict
from flatprobe.study.decision_schema import Decision, KnownAnswer

COUPLING_GATES: tuple[GateName, ...] = (
    "source_rate",
    "mask_audit",
    "length_median",
    "length_iqr",
    "length_support",
    "canary",
)
"""Gates on the coupling and its training set. They say nothing about geometry, whose states precede the coupling."""
COMPLETION_GATES: tuple[GateName, ...] = ("marker_at_end", "spam", "truncation")
"""Gates on sampled completions."""


def outcome(
    known: KnownAnswer, verdict: Verdict, exchanged: Verdict, rule: Decision, *, lead_lost: bool | None
) -> KnownOutcome:
    """Compare the verdict on a contrast with its known answer.

    Args:
        verdict: decided on `for_each_leg` gates.
        exchanged: the verdict with the two conditions exchanged.
        rule: the rule about these two conditions.
        lead_lost: see `lead_is_lost`.
    """
    main = verdict.numbers.main
    legs = {
        "geometry": _answer(verdict.geometric_leg, exchanged.geometric_leg, main.geometry, rule.geometry.threshold),
        "leakage": _answer(verdict.behavioural_leg, exchanged.behavioural_leg, main.behaviour, rule.behaviour.margin),
    }
    if legs["leakage"] == "blocked" and lead_lost and _blocked_by_the_source(verdict, rule):
        legs["leakage"] = "not_separable"
    expected = {"geometry": known.geometry, "leakage": known.leakage}
    return KnownOutcome(
        treated=known.treated,
        control=known.control,
        verdict=verdict.verdict,
        legs=legs,
        expected=expected,
        as_expected=all(answer is None or legs[leg] == answer for leg, answer in expected.items()),
        evidence=main,
        reasons=verdict.reasons,
    )


def for_each_leg(gates: Sequence[Gate]) -> list[Gate]:
    """The gates, with those of the coupling blocking the behavioural leg only.

    A verdict needs both legs, but in an instrument check each leg is judged alone.
    """
    return [
        replace(gate, blocks="behavioural leg")
        if gate.name in COUPLING_GATES and gate.blocks in ("verdict", "arm")
        else gate
        for gate in gates
    ]


def lead_is_lost(treated: Sequence[float], control: Sequence[float], level: float) -> bool | None:
    """Whether the treated condition's source has lost its lead over the negatives.

    Args:
        treated, control: each condition's lead, log P(separator, marker | own answer) of the source minus the
            negatives' mean, in nats, one value per calibration question.
        level: confidence level of the intervals.

    True if the control's t interval lies above 0, the treated one does not, and Welch's interval of treated - control
    lies below 0. The last condition excludes a treated lead that is only too noisy to see. None with fewer than two
    questions in a condition.
    """
    if min(len(treated), len(control)) < 2:
        return None
    in_treated, in_control = _low(treated, level) > 0, _low(control, level) > 0
    difference = stats.ttest_ind(treated, control, equal_var=False).confidence_interval(level)
    return bool(in_control and not in_treated and difference.high < 0)


def _low(values: Sequence[float], level: float) -> float:
    return float(stats.ttest_1samp(values, 0.0).confidence_interval(level).low)


def _answer(
    leg: LegResult, exchanged: LegResult, evidence: GeometricEvidence | BehaviouralEvidence, bound: float
) -> Answer:
    if leg != "not":
        return "found" if leg == "pass" else "blocked"
    if exchanged == "pass":
        return "reversed"
    low, high = evidence.ci_low, evidence.ci_high
    within = low is not None and high is not None and -bound < low <= high < bound
    return "not_found" if within else "undecided"


def _blocked_by_the_source(verdict: Verdict, rule: Decision) -> bool:
    """Whether the leg is blocked only because the treated condition's source and negatives learnt the marker alike.

    That is measured by teacher-forced probabilities. Failed gates on the treated condition's completions do not
    contradict it: a coupling trained on contradictory labels may repeat its marker.
    """
    named = any(reason.startswith("source_not_separable: ") for reason in verdict.reasons)
    blocking = {
        (gate.name, gate.arm)
        for gate in verdict.gates
        if gate.passed is not True and gate.blocks not in ("nothing", "em_specific", "geometric leg")
    }
    allowed = {(name, rule.treated) for name in ("source_rate", *COMPLETION_GATES)}
    return named and blocking <= allowed
