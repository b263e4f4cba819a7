"""Gates: requirements that a study must meet before its numbers may decide anything.

`RULES` lists each gate's threshold, comparison, and what a failure blocks. A gate that was not evaluated counts as
failed, because an unknown safeguard is not a safeguard.
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
GateName = Literal[
    "role_overlap", "question_overlap", "mask_audit", "length_median", "length_iqr", "length_support",
    "merge_kl", "merge_norm", "manipulation", "source_rate", "marker_at_end", "spam", "truncation",
    "engine_parity", "canary", "headroom", "reliability", "unfinished", "analysis",
]  # fmt: skip
SourceReason = Literal["coupling_failed", "source_not_separable"]
"""What a low source rate means."""
STUDY = "study"
"""The arm of gates that look at the whole study instead of one condition."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate on one arm, evaluated or not."""

    name: GateName
    arm: str
    """The condition that the gate looks at, or `study`."""
    statistic: float | None
    """The number compared; None where it is unknown."""
    threshold: float
    comparison: Comparison
    """`statistic comparison threshold` must hold."""
    passed: bool | None
    """None means not evaluated, which counts as failed."""
    blocks: Blocks
    """What a gate that did not pass blocks; `arm` is every contrast of that arm."""
    detail: str = ""
    """What a reader needs to judge the statistic."""

    def to_json(self) -> dict[str, str | float | bool | None]:
        """The gate as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class _Rule:
    threshold: Callable[[Decision], float]
    comparison: Comparison
    blocks: Blocks


def _ceiling(rule: Decision) -> float:
    """The least headroom: a cosine difference cannot exceed it, a contraction needs none."""
    return 0.0 if rule.geometry.measure == "contraction" else rule.geometry.threshold


RULES: dict[GateName, _Rule] = {
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
"""Rule per gate. The statistics:

- overlaps: counts; `mask_audit`, `analysis`: the share that passes
- lengths: the largest relative difference of any persona's answers, less one token
- `length_support`: the smallest share of a persona's requested examples that the common support supplied
- `manipulation`: lower end of the interval of the in-domain log-odds rise
- `engine_parity`: tokens that agree, of those compared; `canary`: the adapter's largest change of a logit
- `unfinished`: share of the answers behind the states that hit the token limit
- the others: as named.
"""


def gate(name: GateName, arm: str, statistic: float | None, rule: Decision, detail: str = "") -> Gate:
    """Compare a statistic with the rule's threshold; None or NaN means that the gate was not evaluated."""
    row = RULES[name]
    threshold = row.threshold(rule)
    if statistic is not None and not math.isfinite(statistic):
        statistic = None
    return Gate(
        name=name,
        arm=arm,
        statistic=statistic,
        threshold=threshold,
        comparison=row.comparison,
        passed=None if statistic is None else _holds(statistic, row.comparison, threshold),
        blocks=blocks(name, arm, rule),
        detail=detail,
    )


def blocks(name: GateName, arm: str, rule: Decision) -> Blocks:
    """What this gate blocks on this arm.

    On the treated and control arms it blocks what `RULES` says, on the benign arm `em_specific` only, elsewhere
    nothing.
    """
    in_full = RULES[name].blocks
    if name == "headroom" and (arm != rule.control or rule.geometry.measure == "contraction"):
        return "nothing"  # only a cosine difference is bounded, by the control's cosine
    if name == "reliability" and (arm != rule.control or not rule.gates.reliability_blocks):
        return "nothing"
    if name == "manipulation" and arm != rule.treated:
        return "nothing"
    if in_full == "nothing" or arm in (STUDY, rule.treated, rule.control):
        return in_full
    return "em_specific" if arm == rule.benign else "nothing"


def required(rule: Decision) -> list[tuple[GateName, str]]:
    """The (gate, arm) pairs that every study must evaluate, wherever its checkpoints come from.

    The other gates belong to stages that a study may not have: training, merging, a second engine.
    """
    on_each_arm: tuple[GateName, ...] = ("source_rate", "marker_at_end", "spam", "truncation")
    arms = [arm for arm in (rule.control, rule.treated, rule.benign) if arm is not None]
    pairs: list[tuple[GateName, str]] = [(name, arm) for arm in arms for name in on_each_arm]
    if blocks("headroom", rule.control, rule) != "nothing":
        pairs.append(("headroom", rule.control))
    if rule.gates.reliability_blocks:
        pairs.append(("reliability", rule.control))
    return [*pairs, ("analysis", STUDY)]


def complete(gates: Sequence[Gate], rule: Decision) -> tuple[Gate, ...]:
    """The gates, and every required one among them that is absent, as not evaluated."""
    present = {(item.name, item.arm) for item in gates}
    absent = [
        gate(name, arm, None, rule, "not evaluated") for name, arm in required(rule) if (name, arm) not in present
    ]
    return (*gates, *absent)


def low_source_rate_reason(
    source_log_p: Sequence[float], negative_log_p: Sequence[float], uncoupled_log_p: Sequence[float], level: float
) -> SourceReason | None:
    """What a low source rate means, from log P(separator, marker | own answer) in nats.

    `source_not_separable`: the source learnt the marker (its log P rose above the uncoupled checkpoint's), but its
    lead over the negatives' mean is not above 0. `coupling_failed`: otherwise. "Above" means that the paired t
    interval at `level` over calibration questions lies above 0.

    Each series has one value per calibration question. None with fewer than two questions. Raises ValueError for
    series of different lengths.
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
