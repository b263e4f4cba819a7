"""What the decision is made on: one geometric and one behavioural number per contrast, with their
uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.margins import superiority, tost
from flatprobe.study.decision_schema import Decision


@dataclass(frozen=True)
class GeometricEvidence:
    """The deciding geometric measure of one contrast; larger means flatter."""

    effect: float | None
    """Mean over layers: cosine units, or -log of the scatter ratio."""
    ci_low: float | None
    ci_high: float | None
    effects_by_layer: dict[int, float | None] = field(default_factory=dict)
    headroom: float | None = None
    """1 - mean cosine of the control, mean over layers."""
    measure: str = "cosine_difference"
    p_value: float | None = None
    persona_ci_low: float | None = None
    """Interval of the same effect over bystanders left out one at a time; it decides no leg, and raises a
    confidence."""
    persona_ci_high: float | None = None
    scope: str = "new questions, these personas, these checkpoints"


@dataclass(frozen=True)
class BehaviouralEvidence:
    """The deciding leakage difference of one contrast, as a difference of rates."""

    effect: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    crossed_p: float | None = None
    """p of no difference by `crossed_anova`: new personas and questions."""
    crossed_tost_p: float | None = None
    """p of equivalence within the kill's leakage bound, on the same scale."""
    crossed_superiority_p: float | None = None
    """p of H0: difference at most the margin, on the same scale; reported, never deciding."""
    source_rate_treated: float | None = None
    source_rate_control: float | None = None
    estimator: str = "cell_bootstrap"
    scope: str = "new independent (persona, question) cells, these checkpoints"


@dataclass(frozen=True)
class Contrast:
    """Both probes' evidence on one pair of conditions."""

    geometry: GeometricEvidence
    behaviour: BehaviouralEvidence

    def exchanged(self) -> Contrast:
        """The same evidence with treated and control exchanged. Nothing is known of the exchanged headroom, nor of the
        exchanged one-sided test against the margin."""
        geometry, behaviour = self.geometry, self.behaviour
        return Contrast(
            replace(
                geometry, effect=_minus(geometry.effect), ci_low=_minus(geometry.ci_high),
                ci_high=_minus(geometry.ci_low), headroom=None,
                persona_ci_low=_minus(geometry.persona_ci_high), persona_ci_high=_minus(geometry.persona_ci_low),
                effects_by_layer={layer: _minus(value) for layer, value in geometry.effects_by_layer.items()},
            ),
            replace(
                behaviour, effect=_minus(behaviour.effect), ci_low=_minus(behaviour.ci_high),
                ci_high=_minus(behaviour.ci_low), crossed_superiority_p=None,
                source_rate_treated=behaviour.source_rate_control,
                source_rate_control=behaviour.source_rate_treated,
            ),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The evidence as nested JSON objects."""
        return asdict(self)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def geometric_evidence(
    estimates: Sequence[Estimate], rule: Decision, contrast: str, headroom: float | None
) -> GeometricEvidence:
    """Pick the rule's measure, position and responses (`question_bootstrap`) for a contrast `treated -
    control`.

    Raises LookupError when the estimates do not hold the registered one: that is a defect of the analysis.
    """
    leg = rule.geometry
    own = [
        row
        for row in estimates
        if (row.quantity, row.contrast) == (leg.measure, contrast)
        and (row.position, row.responses) == (leg.position, leg.responses)
    ]
    rows = [row for row in own if row.estimator == "question_bootstrap"]
    by_persona = [row for row in own if row.estimator == "persona_jackknife_t" and row.layer is None]
    aggregate = _one([row for row in rows if row.layer is None], f"{leg.measure} of {contrast}")
    return GeometricEvidence(
        effect=aggregate.estimate,
        ci_low=aggregate.ci_low,
        ci_high=aggregate.ci_high,
        effects_by_layer={row.layer: row.estimate for row in rows if row.layer is not None},
        headroom=headroom,
        measure=leg.measure,
        p_value=aggregate.p_value,
        persona_ci_low=by_persona[0].ci_low if by_persona else None,
        persona_ci_high=by_persona[0].ci_high if by_persona else None,
        scope=aggregate.scope,
    )


def behavioural_evidence(
    estimates: Sequence[Estimate],
    rule: Decision,
    contrast: str,
    pool: str,
    source_rate_treated: float | None,
    source_rate_control: float | None,
) -> BehaviouralEvidence:
    """Pick the rule's estimator for a contrast and pool, and the crossed analysis beside it.

    `estimates` must hold one seed and one lambda. Raises LookupError when the registered estimate is absent.
    """
    wanted = ("leakage_difference", contrast, pool)
    rows = [row for row in estimates if (row.quantity, row.contrast, row.pool) == wanted]
    deciding = _one(
        [row for row in rows if row.estimator == rule.behaviour.estimator], rule.behaviour.estimator
    )
    crossed = _one([row for row in rows if row.estimator == "crossed_anova"], "crossed_anova")
    return BehaviouralEvidence(
        effect=deciding.estimate,
        ci_low=deciding.ci_low,
        ci_high=deciding.ci_high,
        p_value=deciding.p_value,
        crossed_p=crossed.p_value,
        crossed_tost_p=tost(crossed, rule.kill.leakage),
        crossed_superiority_p=superiority(crossed, rule.behaviour.margin),
        source_rate_treated=source_rate_treated,
        source_rate_control=source_rate_control,
        estimator=deciding.estimator,
        scope=deciding.scope,
    )


def _one(rows: Sequence[Estimate], what: str) -> Estimate:
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} estimates of {what}; the decision needs exactly one")
    return rows[0]
