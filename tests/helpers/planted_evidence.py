"""Evidence for decisions, written in one line."""

from __future__ import annotations

from collections.abc import Mapping

from flatprobe.decision.evidence import BehaviouralEvidence, GeometricEvidence


def geometric(
    effect: float | None,
    ci_low: float | None,
    ci_high: float | None,
    by_layer: Mapping[int, float | None] | None = None,
    *,
    measure: str = "cosine_difference",
    headroom: float | None = None,
    persona_ci_low: float | None = None,
    persona_ci_high: float | None = None,
) -> GeometricEvidence:
    return GeometricEvidence(
        effect=effect,
        ci_low=ci_low,
        ci_high=ci_high,
        effects_by_layer=dict(by_layer or {}),
        headroom=headroom,
        measure=measure,
        persona_ci_low=persona_ci_low,
        persona_ci_high=persona_ci_high,
        scope="new questions, these personas, these checkpoints",
    )


def behavioural(
    effect: float | None,
    ci_low: float | None,
    ci_high: float | None,
    p_value: float | None,
    crossed_p: float | None = None,
    crossed_tost_p: float | None = None,
    crossed_superiority_p: float | None = None,
    source_rates: tuple[float | None, float | None] = (None, None),
) -> BehaviouralEvidence:
    """`source_rates` are those of treated and control."""
    return BehaviouralEvidence(
        effect=effect,
        ci_low=ci_low,
        ci_high=ci_high,
        p_value=p_value,
        crossed_p=crossed_p,
        crossed_tost_p=crossed_tost_p,
        crossed_superiority_p=crossed_superiority_p,
        source_rate_treated=source_rates[0],
        source_rate_control=source_rates[1],
        estimator="cell_bootstrap",
        scope="new independent (persona, question) cells, these checkpoints",
    )
