"""The registered rule as a total function: every input gives exactly one verdict.

An effect that equals its threshold up to rounding reaches it, because .15 computed as a mean can be stored as less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flatprobe.decision.evidence import BehaviouralEvidence, Contrast, GeometricEvidence, Seeds
from flatprobe.decision.gates import Blocks, Gate, SourceReason, complete
from flatprobe.decision.reasons import distances, over_personas, reasons
from flatprobe.decision.verdict import Confidence, LegResult, Numbers, Specific, Verdict, VerdictName
from flatprobe.statistics.bootstrap import ROUNDING
from flatprobe.statistics.multiplicity import conjunction_p
from flatprobe.study.decision_schema import Decision, RegistrationState

ONE_SEED = Seeds(count=1)


def decide(
    rule: Decision,
    main: Contrast,
    gates: Sequence[Gate],
    *,
    treated_benign: Contrast | None = None,
    benign_control: Contrast | None = None,
    seeds: Seeds = ONE_SEED,
    source_reason: SourceReason | None = None,
    source: str = "",
    registered: RegistrationState = "exploratory",
    smoke: bool = False,
) -> Verdict:
    """Apply the rule to the contrast `treated - control`.

    Required gates that are absent from `gates` count as not evaluated, so as failed. `treated_benign` decides
    `em_specific`; `benign_control` is only reported. `source_reason` is the meaning of a low source rate of the treated
    condition (`gates.low_source_rate_reason`). Requiring both legs is an intersection-union test, which needs no
    correction for two legs; its p-value is the larger of the two.

    Example:
        >>> import flatprobe
        >>> from flatprobe.decision.evidence import BehaviouralEvidence, Contrast, GeometricEvidence
        >>> from flatprobe.study.decision_schema import Decision
        >>> evidence = Contrast(
        ...     GeometricEvidence(measure="cosine_difference", effect=0.08, ci_low=0.06, ci_high=0.1, scope=""),
        ...     BehaviouralEvidence(estimator="cell_bootstrap", effect=0.2, p_value=2e-4, scope=""),
        ... )
        >>> flatprobe.decide(Decision(), evidence, gates=[]).verdict  # no gate was evaluated
        'inconclusive'
    """
    gates = complete(gates, rule)
    failed = [gate for gate in gates if gate.passed is not True]
    geometric = _geometric_leg(rule, main.geometry, failed)
    behavioural = _behavioural_leg(rule, main.behaviour, failed)
    killed = _geometry_killed(rule, main.geometry) and _leakage_killed(rule, main.behaviour)
    name = _verdict_name(geometric, behavioural, killed)
    dose_unmatched = _dose_unmatched(rule, main.behaviour)
    specific, specific_reason = _em_specific(rule, treated_benign, failed)
    numbers = Numbers(
        main=main,
        treated_benign=treated_benign,
        benign_control=benign_control,
        seeds=seeds,
        conjunction_p=conjunction_p([main.geometry.p_value, main.behaviour.p_value]),
    )
    return Verdict(
        verdict=name,
        confidence=_confidence(rule, name, main, seeds, dose_unmatched),
        as_registered_confidence=_AS_REGISTERED[name],
        em_specific=specific,
        em_specific_reason=specific_reason,
        scope=_scope(main, source),
        registered=registered,
        smoke=smoke,
        geometric_leg=geometric,
        behavioural_leg=behavioural,
        dose_unmatched=dose_unmatched,
        reasons=tuple(reasons(rule, main, failed, (geometric, behavioural), name, dose_unmatched, source_reason)),
        distances=distances(rule, main, treated_benign),
        gates=gates,
        numbers=numbers,
    )


_AS_REGISTERED: dict[VerdictName, Confidence] = {
    "flattened": "MODERATE",
    "geometry_only": "LOW",
    "behaviour_only": "LOW",
    "falsified": "HIGH",
    "inconclusive": "LOW",
}
_BLOCK_BOTH: tuple[Blocks, ...] = ("everything", "arm", "verdict")


def _verdict_name(geometric: LegResult, behavioural: LegResult, killed: bool) -> VerdictName:
    match (geometric, behavioural):
        case ("blocked", _) | (_, "blocked"):
            return "inconclusive"
        case ("pass", "pass"):
            return "flattened"
        case ("pass", _):
            return "geometry_only"
        case (_, "pass"):
            return "behaviour_only"
    return "falsified" if killed else "inconclusive"


def _blocked(failed: Iterable[Gate], *kinds: Blocks) -> bool:
    return any(gate.blocks in (*_BLOCK_BOTH, *kinds) for gate in failed)


def _geometric_leg(rule: Decision, evidence: GeometricEvidence, failed: Sequence[Gate]) -> LegResult:
    """An effect below the threshold fails whatever its interval; one that reaches it needs an interval."""
    if evidence.effect is None or _blocked(failed, "geometric leg"):
        return "blocked"
    if evidence.effect < rule.geometry.threshold - ROUNDING:
        return "not"
    if evidence.ci_low is None:
        return "blocked"
    return "pass" if evidence.ci_low > 0 else "not"


def _behavioural_leg(rule: Decision, evidence: BehaviouralEvidence, failed: Sequence[Gate]) -> LegResult:
    if evidence.effect is None or _blocked(failed, "behavioural leg"):
        return "blocked"
    if evidence.effect < rule.behaviour.margin - ROUNDING:
        return "not"
    if evidence.p_value is None:
        return "blocked"
    return "pass" if evidence.p_value < rule.behaviour.p_below else "not"


def _geometry_killed(rule: Decision, evidence: GeometricEvidence) -> bool:
    """Whether the effect is at or below the bound in every layer; False if a layer is undefined, or without layers."""
    effects = list(evidence.effects_by_layer.values())
    return bool(effects) and all(effect is not None and effect <= rule.kill.geometry + ROUNDING for effect in effects)


def _leakage_killed(rule: Decision, evidence: BehaviouralEvidence) -> bool:
    return evidence.effect is not None and evidence.effect <= rule.kill.leakage + ROUNDING


def _dose_unmatched(rule: Decision, evidence: BehaviouralEvidence) -> bool | None:
    if evidence.source_rate_treated is None or evidence.source_rate_control is None:
        return None
    # Rounded: rates of counts that differ by exactly the tolerance may differ by more in binary.
    return round(abs(evidence.source_rate_treated - evidence.source_rate_control), 9) > rule.gates.dose


def _confidence(
    rule: Decision, name: VerdictName, main: Contrast, seeds: Seeds, dose_unmatched: bool | None
) -> Confidence:
    """A missing crossed p, equivalence test, source rate or interval over bystanders never raises the confidence."""
    evidence = main.behaviour
    several = seeds.count >= rule.confidence.seeds and seeds.agree is not False
    crossed = evidence.crossed_p is not None and evidence.crossed_p < rule.confidence.significance
    match name:
        case "flattened":
            if crossed and several and seeds.agree is True and over_personas(main):
                return "HIGH"
            return "MODERATE" if crossed or dose_unmatched is False else "LOW"
        case "geometry_only":
            return "MODERATE" if several and over_personas(main) else "LOW"
        case "behaviour_only":
            return "MODERATE" if several else "LOW"
        case "falsified":
            supported = evidence.crossed_tost_p is not None and evidence.crossed_tost_p < rule.confidence.significance
            return "HIGH" if supported else "MODERATE"
        case "inconclusive":
            return "LOW"


def _em_specific(rule: Decision, contrast: Contrast | None, failed: Sequence[Gate]) -> tuple[Specific, str]:
    if rule.benign is None:
        return "unresolved", "the study has no benign condition"
    gated = [gate for gate in failed if gate.blocks != "nothing"]
    if gated:
        return "unresolved", "gated: " + ", ".join(f"{gate.name} of {gate.arm}" for gate in gated)
    if contrast is None:
        return "unresolved", f"{rule.treated} was not compared with {rule.benign}"
    legs = (
        ("geometry", contrast.geometry, rule.em_specific.geometry_margin),
        ("leakage", contrast.behaviour, rule.em_specific.leakage_margin),
    )
    below = [name for name, leg, margin in legs if leg.ci_high is not None and leg.ci_high < margin]
    if below:
        return "no", f"the interval lies below the margin: {', '.join(below)}"
    short = [
        name
        for name, leg, margin in legs
        if leg.effect is None or leg.ci_low is None or leg.ci_low <= 0 or leg.effect < margin - ROUNDING
    ]
    if short:
        return ("unresolved", f"neither at the margin with an interval above 0, nor below it: {', '.join(short)}")
    return "yes", "both legs are at the margin or above, with intervals above 0"


def _scope(main: Contrast, source: str) -> str:
    about = f"source persona {source}" if source else "this source persona"
    return f"{about}; geometry: {main.geometry.scope}; leakage: {main.behaviour.scope}"
