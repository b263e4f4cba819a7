"""The reasons for a verdict, each with a name, and the distance to each threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flatprobe.decision.evidence import Contrast
from flatprobe.decision.gates import Gate, SourceReason
from flatprobe.decision.verdict import LegResult, VerdictName
from flatprobe.study.decision_schema import Decision


def reasons(
    rule: Decision,
    main: Contrast,
    failed: Sequence[Gate],
    legs: tuple[LegResult, LegResult],
    verdict: VerdictName,
    dose_unmatched: bool | None,
    source_reason: SourceReason | None,
) -> Iterator[str]:
    """Yield reasons as `name: explanation`: failed gates (blocking ones first), then missing numbers, then warnings."""
    order = {"em_specific": 1, "nothing": 2}
    for gate in sorted(failed, key=lambda gate: order.get(gate.blocks, 0)):
        yield f"{_gate_reason(rule, gate, source_reason)}: {_gate_text(gate)}"
    for name, leg, effect in (("geometry", legs[0], main.geometry.effect), ("leakage", legs[1], main.behaviour.effect)):
        if effect is None:
            yield f"no_estimate: {name} has no estimate"
        elif leg == "blocked" and not any(_concerns(gate, name) for gate in failed):
            missing = "interval" if name == "geometry" else "p-value"
            yield f"no_inference: the effect on {name} reaches its threshold, but has no {missing}"
    if verdict == "inconclusive" and legs == ("not", "not"):
        yield "in_between: neither leg passes, and the kill criterion is not met"
    if legs[0] == "pass" and not over_personas(main):
        low, high = main.geometry.persona_ci_low, main.geometry.persona_ci_high
        interval = "is unknown" if low is None or high is None else f"is [{low:+.3g}, {high:+.3g}] and includes 0"
        yield (
            f"few_personas: the geometric effect's interval over bystanders left out one at a time {interval}: the "
            "effect may rest on few of them"
        )
    if dose_unmatched is None:
        yield "dose_unknown: a source rate is missing, so equal dose cannot be claimed"
    elif dose_unmatched:
        yield f"dose_unmatched: source rates differ by more than {rule.gates.dose:.0%}"


def over_personas(main: Contrast) -> bool:
    """Whether the geometric effect's interval over bystanders lies above 0; False where it is unknown."""
    return main.geometry.persona_ci_low is not None and main.geometry.persona_ci_low > 0


def distances(rule: Decision, main: Contrast, treated_benign: Contrast | None) -> dict[str, float | None]:
    """Value minus threshold in the value's units (for p and dose: threshold minus value). Positive passes.

    For `kill_*` positive means that the kill criterion is not met; `kill_geometry` is that of the highest layer effect.
    None where a number is unknown.
    """
    geometry, behaviour = main.geometry, main.behaviour
    layers = list(geometry.effects_by_layer.values())
    defined = [effect for effect in layers if effect is not None]
    rates = (behaviour.source_rate_treated, behaviour.source_rate_control)
    gap = None if rates[0] is None or rates[1] is None else abs(rates[0] - rates[1])
    return {
        "geometry_threshold": _minus(geometry.effect, rule.geometry.threshold),
        "geometry_interval": geometry.ci_low,
        "leakage_margin": _minus(behaviour.effect, rule.behaviour.margin),
        "leakage_p": _minus(rule.behaviour.p_below, behaviour.p_value),
        "kill_geometry": max(defined) - rule.kill.geometry if defined and len(defined) == len(layers) else None,
        "kill_leakage": _minus(behaviour.effect, rule.kill.leakage),
        "dose": _minus(rule.gates.dose, gap),
        "em_specific_geometry": _minus(
            treated_benign.geometry.effect if treated_benign else None, rule.em_specific.geometry_margin
        ),
        "em_specific_leakage": _minus(
            treated_benign.behaviour.effect if treated_benign else None, rule.em_specific.leakage_margin
        ),
    }


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _concerns(gate: Gate, leg: str) -> bool:
    leg_block = "geometric leg" if leg == "geometry" else "behavioural leg"
    return gate.blocks in ("everything", "arm", "verdict", leg_block)


def _gate_reason(rule: Decision, gate: Gate, source_reason: SourceReason | None) -> str:
    """The name of a failed gate's reason: its cause where that is known, else the gate's name."""
    if gate.name == "headroom" and gate.passed is False and gate.blocks != "nothing":
        return "unattainable"
    if gate.name == "source_rate" and gate.passed is False:
        if gate.arm == rule.control:
            return "coupling_failed"
        if gate.arm == rule.treated and source_reason is not None:
            return source_reason
    return gate.name


def _gate_text(gate: Gate) -> str:
    value = "not evaluated" if gate.statistic is None else f"{gate.statistic:.4g}"
    detail = f" ({gate.detail})" if gate.detail else ""
    effect = {"nothing": "a warning", "em_specific": "em_specific stays unresolved"}
    consequence = effect.get(gate.blocks, f"blocks {gate.blocks}")
    needs = f"needs {gate.comparison} {gate.threshold:.4g}"
    return f"{gate.arm}: {gate.name} {value}, {needs}; {consequence}{detail}"
