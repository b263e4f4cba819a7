"""The evidence behind a decision: per contrast one geometric and one behavioural effect, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import superiority, tost
from flatprobe.study.decision_schema import Decision


@dataclass(frozen=True, kw_only=True)
class GeometricEvidence:
    """The deciding geometric measure of one contrast; larger means flatter. Unknown numbers are None."""

    effect: float | None = None
    """Mean over layers, in cosine units or as -log of the scatter ratio."""
    ci_low: float | None = None
    ci_high: float | None = None
    effects_by_layer: dict[int, float | None] = field(default_factory=dict)
    headroom: float | None = None
    """1 - mean cosine of the control, mean over layers."""
    measure: str
    p_value: float | None = None
    persona_ci_low: float | None = None
    """Interval of the same effect over bystanders left out one at a time. It decides no leg, but an interval above 0
    can raise the confidence."""
    persona_ci_high: float | None = None
    scope: str
    """What interval and p-value generalise to."""


@dataclass(frozen=True, kw_only=True)
class BehaviouralEvidence:
    """The deciding leakage difference of one contrast, a difference of rates. Unknown numbers are None."""

    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    crossed_p: float | None = None
    """p of no difference by `crossed_anova`, for new personas and questions."""
    crossed_tost_p: float | None = None
    """p of equivalence within the kill's leakage bound, by the same analysis."""
    crossed_superiority_p: float | None = None
    """p of H0: difference <= margin, by the same analysis; reported, never deciding."""
    source_rate_treated: float | None = None
    source_rate_control: float | None = None
    estimator: str
    scope: str
    """What interval and p-value generalise to."""


@dataclass(frozen=True)
class Contrast:
    """Both probes' evidence on one pair of conditions."""

    geometry: GeometricEvidence
    behaviour: BehaviouralEvidence

    def exchanged(self) -> Contrast:
        """The same evidence with treated and control exchanged.

        The headroom and the superiority p-value cannot be exchanged and become None.
        """
        geometry, behaviour = self.geometry, self.behaviour
        return Contrast(
            replace(
                geometry,
                effect=_minus(geometry.effect),
                ci_low=_minus(geometry.ci_high),
                ci_high=_minus(geometry.ci_low),
                effects_by_layer={layer: _minus(effect) for layer, effect in geometry.effects_by_layer.items()},
                headroom=None,
                persona_ci_low=_minus(geometry.persona_ci_high),
                persona_ci_high=_minus(geometry.persona_ci_low),
            ),
            replace(
                behaviour,
                effect=_minus(behaviour.effect),
                ci_low=_minus(behaviour.ci_high),
                ci_high=_minus(behaviour.ci_low),
                crossed_superiority_p=None,
                source_rate_treated=behaviour.source_rate_control,
                source_rate_control=behaviour.source_rate_treated,
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """The evidence as nested JSON objects."""
        return asdict(self)


@dataclass(frozen=True)
class Seeds:
    """The number of training seeds, and whether each seed alone gives the same pair of legs."""

    count: int
    agree: bool | None = None
    """None with a single seed, and where the seeds were not compared."""


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def geometric_evidence(
    estimates: Sequence[Estimate], rule: Decision, contrast: str, headroom: float | None
) -> GeometricEvidence:
    """Select the estimates of the rule's measure, position and responses for the contrast `treated - control`.

    The `question_bootstrap` decides. Raises LookupError without exactly one such estimate over layers: that is a
    defect of the analysis.
    """
    leg = rule.geometry
    rows = [
        row
        for row in estimates
        if (row.quantity, row.contrast) == (leg.measure, contrast)
        and (row.position, row.responses) == (leg.position, leg.responses)
    ]
    by_question = [row for row in rows if row.estimator == "question_bootstrap"]
    by_persona = [row for row in rows if row.estimator == "persona_jackknife_t" and row.layer is None]
    aggregate = _one([row for row in by_question if row.layer is None], f"{leg.measure} of {contrast}")
    return GeometricEvidence(
        effect=aggregate.estimate,
        ci_low=aggregate.ci_low,
        ci_high=aggregate.ci_high,
        effects_by_layer={row.layer: row.estimate for row in by_question if row.layer is not None},
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
    *,
    source_rate_treated: float | None = None,
    source_rate_control: float | None = None,
) -> BehaviouralEvidence:
    """Select the estimates by the rule's estimator and by `crossed_anova` for a contrast and pool.

    `estimates` must hold one seed and one lambda. Raises LookupError where one of the two is absent or not unique.
    """
    key = ("leakage_difference", contrast, pool)
    rows = [row for row in estimates if (row.quantity, row.contrast, row.pool) == key and not row.contaminated]
    name = rule.behaviour.estimator
    deciding = _one([row for row in rows if row.estimator == name], name)
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


def _one(rows: Sequence[Estimate], name: str) -> Estimate:
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} estimates of {name}; the decision needs exactly one")
    return rows[0]
