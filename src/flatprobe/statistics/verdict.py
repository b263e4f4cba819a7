"""The verdict: what the registered rule makes of the evidence, with everything that was decided on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from flatprobe.statistics.gates import Gate

Name = Literal["flattened", "geometry_only", "behaviour_only", "falsified", "inconclusive"]
Confidence = Literal["HIGH", "MODERATE", "LOW"]
Specific = Literal["yes", "no", "unresolved"]
Registered = Literal["confirmatory", "exploratory", "deviated"]
Leg = Literal["pass", "not", "blocked"]

MEANINGS: dict[Name, str] = {
    "flattened": "both probes pass: the treated finetune made the personas more alike (H1)",
    "geometry_only": "the geometric probe passes alone: the coupling recipe is the bottleneck (H2)",
    "behaviour_only": "the behavioural probe passes alone: the recipe explains it, not the geometry (H2)",
    "falsified": "both probes are on the kill side, for this source persona",
    "inconclusive": "a leg is blocked or the numbers lie between passing and killing",
}


@dataclass(frozen=True)
class Verdict:
    """Outcome of the registered rule."""

    verdict: Name
    confidence: Confidence
    """Ours: it knows about crossed inference, seeds and dose."""
    as_registered_confidence: Confidence
    """What the registered proposal would print for this verdict with one seed."""
    em_specific: Specific
    """Whether the effect is specific to the treated finetune, against the benign one."""
    em_specific_reason: str
    scope: str
    """What the deciding intervals generalise to."""
    registered: Registered
    smoke: bool
    """A smoke run's verdict supports no claim."""
    geometric_leg: Leg
    behavioural_leg: Leg
    dose_unmatched: bool | None
    """Whether source rates differ by more than the tolerance; None where they are unknown."""
    reasons: tuple[str, ...]
    """Named reasons and warnings, the deciding ones first."""
    distances: dict[str, float | None]
    """Value minus threshold in the value's units: positive passes, and for `kill_*` survives."""
    gates: tuple[Gate, ...]
    numbers: dict[str, Any]
    """The evidence decided on, per contrast, and the number of seeds."""

    def headline(self) -> str:
        """The verdict in one line."""
        label = "SMOKE RUN, no claim: " if self.smoke else ""
        return (
            f"{label}{self.verdict} ({self.confidence}, {self.registered}; em_specific: {self.em_specific}): "
            f"{MEANINGS[self.verdict]}"
        )

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON object, with `headline` and the legs under `legs`."""
        body = asdict(self)
        legs = {"geometric": body.pop("geometric_leg"), "behavioural": body.pop("behavioural_leg")}
        return {**body, "headline": self.headline(), "legs": legs, "reasons": list(self.reasons)}
