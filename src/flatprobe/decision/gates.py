"""Gates: conditions that a study must meet before its numbers may decide anything.

`RULES` is the table: which statistic, which threshold, and what a failure blocks. A gate that was not
evaluated counts as failed for what it blocks, because an unknown safeguard is not a safeguard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from scipy import stats

from flatprobe.study.decision_schema import Decision

Comparison = Literal[">=", "<=", "=", ">"]
Blocks = Literal["everything", "arm", "verdict", "behavioural leg", "geometric leg", "em_specific", "nothing"]
Kind = Literal[
    "role_overlap", "question_overlap", "mask_audit", "length_median", "length_iqr", "length_support",
    "merge_kl", "merge_norm", "manipulation", "source_rate", "marker_at_end", "spam", "truncation",
    "engine_parity", "canary", "headroom", "reliability", "unfinished", "analysis",
]  # fmt: skip
STUDY = "study"
"""The arm of gates that look at the study and not at one condition."""


@dataclass(frozen=True)
class Gate:
    """One gate of one arm, evaluated or not."""

    name: str
    """Kind of the gate, a key of `RULES`."""
    arm: str
    """Condition it looks at, or `study`."""
    statistic: float | None
    """The number compared; None where it could not be had."""
    threshold: float
    """What it is compared with."""
    comparison: Comparison
    """`statistic comparison threshold` must hold."""
    passed: bool | None
    """None means not evaluated, which counts as failed."""
    blocks: Blocks
    """What a gate that did not pass blocks; `arm` is that arm and with it every contrast of the arm."""
    detail: str = ""
    """What a reader must know to judge it."""

    def to_json(self) -> dict[str, str | float | bool | None]:
        """The gate as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class _Rule:
    threshold: Callable[[Decision], float]
    comparison: Comparison
    blocks: Blocks


def _ceiling(rule: Decision) -> float:
    """Headroom that the effect needs: a cosine difference cannot exceed it, a contraction needs none."""
    return 0.0 if rule.geometry.measure == "contraction" else rule.geometry.threshold


RULES: dict[Kind, _Rule] = {
    "role_overlap": _Rule(lambda rule: 0.0, "=", "everything"),
    "question_overlap": _Rule(lambda rule: 0.0, "=", "everything"),
    "mask_audit": _Rule(lambda rule: 1.0, "=", "arm"),
    "length_median": _Rule(lambda rule: rule.gates.length_tolerance, "<=", "arm"),
    "length_iqr": _Rule(lambda rule: rule.gates.length_tolerance, "<=", "arm"),
    "length_support": _Rule(lambda rule: 0.0, ">", "arm"),
    "merge_kl": _Rule(lambda rule: rule.gates.merge_kl, "<=", "arm"),
    "merge_norm": _Rule(lambda rule: 0.0, ">", "arm"),
    "manipulation": _Rule(lambda rule: 0.0, ">", "verdict"),
    "source_rate": _Rule(lambda rule: rule.gates.source_rate, ">=", "verdict"),
    "marker_at_end": _Rule(lambda rule: rule.gates.marker_at_end, ">=", "behavioural leg"),
    "spam": _Rule(lambda rule: rule.gates.spam, "<=", "behavioural leg"),
    "truncation": _Rule(lambda rule: rule.gates.truncation, "<=", "behavioural leg"),
    "engine_parity": _Rule(lambda rule: rule.gates.parity, ">=", "arm"),
    "canary": _Rule(lambda rule: 0.0, ">", "arm"),
    "headroom": _Rule(_ceiling, ">=", "geometric leg"),
    "reliability": _Rule(lambda rule: rule.gates.reliability, ">=", "geometric leg"),
    "unfinished": _Rule(lambda rule: rule.gates.truncation, "<=", "nothing"),
    "analysis": _Rule(lambda rule: 1.0, "=", "verdict"),
}
"""Statistic per kind: overlaps are counts; `mask_audit` and `analysis` the shares that pass; lengths are the
largest relative differences of any persona's answers, less one token; `length_support` the smallest share of a
persona's examples that the common support gave of those asked for; `manipulation` the lower end of the in-domain
log-odds rise's interval; `engine_parity` tokens agreed of tokens compared; `canary` the largest change of a logit
by the adapter; `unfinished` the share of answers whose states are read that hit the token limit; the others as
named."""


def gate(kind: Kind, arm: str, statistic: float | None, rule: Decision, detail: str = "") -> Gate:
    """Compare a statistic with the rule's threshold; None (or NaN) is a gate that was not evaluated."""
    row = RULES[kind]
    threshold = row.threshold(rule)
    if statistic is not None and not math.isfinite(statistic):
        statistic = None
    passed = None if statistic is None else _holds(statistic, row.comparison, threshold)
    return Gate(kind, arm, statistic, threshold, row.comparison, passed, blocks(kind, arm, rule), detail)


def blocks(kind: Kind, arm: str, rule: Decision) -> Blocks:
    """What a gate of this kind blocks on this arm: in full on the two arms of the verdict, `em_specific` only
    on the benign arm, nothing on any other."""
    base = RULES[kind].blocks
    if kind == "headroom" and (arm != rule.control or rule.geometry.measure == "contraction"):
        return "nothing"  # only a difference of cosines from the control has a ceiling
    if kind == "reliability" and (arm != rule.control or not rule.gates.reliability_blocks):
        return "nothing"
    if kind == "manipulation" and arm != rule.treated:
        return "nothing"
    if base == "nothing" or arm in (STUDY, rule.treated, rule.control):
        return base
    return "em_specific" if arm == rule.benign else "nothing"


def required(rule: Decision) -> list[tuple[Kind, str]]:
    """Gates that every study has, whatever its checkpoints come from: (kind, arm).

    The others belong to stages that a study may not have (training, merging, a second engine).
    """
    readouts: tuple[Kind, ...] = ("source_rate", "marker_at_end", "spam", "truncation")
    arms = [arm for arm in (rule.control, rule.treated, rule.benign) if arm is not None]
    pairs: list[tuple[Kind, str]] = [(kind, arm) for arm in arms for kind in readouts]
    if blocks("headroom", rule.control, rule) != "nothing":
        pairs.append(("headroom", rule.control))
    if rule.gates.reliability_blocks:
        pairs.append(("reliability", rule.control))
    return [*pairs, ("analysis", STUDY)]


def complete(gates: Sequence[Gate], rule: Decision) -> tuple[Gate, ...]:
    """The gates given, and every required one that was not given as `not evaluated`."""
    given = {(item.name, item.arm) for item in gates}
    absent = [
        gate(kind, arm, None, rule, "not evaluated")
        for kind, arm in required(rule)
        if (kind, arm) not in given
    ]
    return (*gates, *absent)


def low_source_rate_reason(
    source_log_p: Sequence[float],
    negative_log_p: Sequence[float],
    uncoupled_log_p: Sequence[float],
    level: float,
) -> Literal["coupling_failed", "source_not_separable"] | None:
    """What a low source rate means, by teacher-forced log P(s, m | own answer), one value per calibration
    question.

    `source_not_separable`: the source learnt the marker (its log P rose above the uncoupled checkpoint's,
    interval above 0) and the negatives did as much (the source's lead over their mean is not above 0).
    `coupling_failed`: otherwise. Paired one-sample t intervals over questions; None with fewer than two
    questions.
    """
    if not len(source_log_p) == len(negative_log_p) == len(uncoupled_log_p):
        raise ValueError("one value per calibration question in each series")
    if len(source_log_p) < 2:
        return None
    rises = [source - before for source, before in zip(source_log_p, uncoupled_log_p, strict=True)]
    leads = [source - other for source, other in zip(source_log_p, negative_log_p, strict=True)]
    learnt, separable = _above_zero(rises, level), _above_zero(leads, level)
    return "source_not_separable" if learnt and not separable else "coupling_failed"


def _above_zero(values: Sequence[float], level: float) -> bool:
    if min(values) == max(values):
        return values[0] > 0
    return float(stats.ttest_1samp(values, 0.0).confidence_interval(level).low) > 0


def _holds(statistic: float, comparison: Comparison, threshold: float) -> bool:
    match comparison:
        case ">=":
            return statistic >= threshold
        case "<=":
            return statistic <= threshold
        case ">":
            return statistic > threshold
        case "=":
            return statistic == threshold
