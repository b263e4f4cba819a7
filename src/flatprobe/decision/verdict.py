"""The verdict: what the registered rule makes of the evidence, with everything that was decided on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from flatprobe.decision.gates import Gate
from flatprobe.study.decision_schema import KnownLeakage

Name = Literal["flattened", "geometry_only", "behaviour_only", "falsified", "inconclusive"]
Confidence = Literal["HIGH", "MODERATE", "LOW"]
Specific = Literal["yes", "no", "unresolved"]
Registered = Literal["confirmatory", "exploratory", "deviated"]
Leg = Literal["pass", "not", "blocked"]
Answer = Literal["found", "not_found", "reversed", "undecided", "not_separable", "blocked"]
"""A leg of a contrast whose answer is known: it passes; its interval lies within the threshold on both sides of 0; it
would pass with the arms exchanged; neither; it is blocked because the treated arm's source and negatives learnt the
marker alike; it is blocked otherwise."""


class Meaning(NamedTuple):
    """A verdict in plain language."""

    headline: str
    """Half a line, for terminals and logs."""
    means: str
    """For readers of a report."""
    does_not_mean: str


MEANINGS: dict[Name, Meaning] = {
    "flattened": Meaning(
        "both probes pass: the treated finetune made the personas more alike (H1)",
        "Both probes agree: after the treated finetune the personas' hidden states are closer to the "
        "source's, and personas that were never trained on emit the source's marker more often, each by "
        "at least the registered amount.",
        "It does not say that the finetune's content is the cause (that is what “EM-specific” asks), nor "
        "that other source personas, models or training runs behave alike beyond the scope stated here.",
    ),
    "geometry_only": Meaning(
        "the geometric probe passes alone: the coupling recipe is the bottleneck (H2)",
        "The hidden states moved closer together by the registered amount, but the marker did not spread "
        "to untrained personas by the registered amount. The behavioural recipe, not the geometry, may be "
        "the bottleneck.",
        "It does not show that behaviour is unaffected: leakage below the threshold is not evidence of no "
        "leakage, and a coupling that adapts attention can tell personas apart by reading their prompts anew, however "
        "alike they have become.",
    ),
    "behaviour_only": Meaning(
        "the behavioural probe passes alone: the recipe explains it, not the geometry (H2)",
        "The marker spread to untrained personas by the registered amount, but their hidden states did "
        "not move closer to the source's by the registered amount. The training recipe, rather than a "
        "flatter persona space, is the likelier explanation.",
        "It does not show that the geometry is unchanged, only that the registered effect was not reached.",
    ),
    "falsified": Meaning(
        "both probes are on the kill side, for this source persona",
        "The registered kill criterion is met: hidden states did not move closer to the source's in any "
        "layer, and leakage rose by no more than the registered bound. For this source persona the claim "
        "fails.",
        "It does not show that no finetune flattens persona space, nor that another source persona would "
        "give the same answer.",
    ),
    "inconclusive": Meaning(
        "a leg is blocked or the numbers lie between passing and killing",
        "The registered rule does not decide: a gate failed, a leg was blocked, or the effects fall "
        "between passing and falsifying. The reasons and the distance to each threshold say which.",
        "It is neither evidence for flattening nor evidence against it.",
    ),
}


@dataclass(frozen=True)
class KnownOutcome:
    """What the rule made of a contrast whose answer was known beforehand."""

    treated: str
    control: str
    verdict: Name
    legs: dict[str, Answer]
    """By leg: `geometry` and `leakage`."""
    expected: dict[str, KnownLeakage | None]
    """By leg; None asks nothing."""
    as_expected: bool
    """Whether every leg that something was asked of came to it."""
    evidence: dict[str, Any]
    reasons: tuple[str, ...]


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
    known_answers: tuple[KnownOutcome, ...] = ()
    """Positive and null controls of the probes, by the same rule; empty where the study has none."""

    def instrument(self) -> str | None:
        """Whether the known answers came out, in half a line; None where there are none."""
        if not self.known_answers:
            return None
        right, of = sum(known.as_expected for known in self.known_answers), len(self.known_answers)
        return f"Instrument check {'passed' if right == of else 'failed'}: {right} of {of} as expected"

    def headline(self) -> str:
        """The verdict in one line."""
        label = "SMOKE RUN, no claim: " if self.smoke else ""
        instrument = self.instrument()
        return (
            f"{label}{self.verdict} ({self.confidence}, {self.registered}; em_specific: {self.em_specific}): "
            f"{MEANINGS[self.verdict].headline}{f'. {instrument}' if instrument else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON object, with `headline`, `instrument` and the legs under `legs`."""
        body = asdict(self)
        legs = {"geometric": body.pop("geometric_leg"), "behavioural": body.pop("behavioural_leg")}
        return {
            **body, "headline": self.headline(), "instrument": self.instrument(), "legs": legs,
            "reasons": list(self.reasons),
        }  # fmt: skip
