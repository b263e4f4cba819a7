"""The verdict: the outcome of the registered rule, with everything that it was decided on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from flatprobe.decision.evidence import Contrast, Seeds
from flatprobe.decision.gates import Gate
from flatprobe.study.decision_schema import KnownLeakage, RegistrationState

VerdictName = Literal["flattened", "geometry_only", "behaviour_only", "falsified", "inconclusive"]
Confidence = Literal["HIGH", "MODERATE", "LOW"]
Specific = Literal["yes", "no", "unresolved"]
LegResult = Literal["pass", "not", "blocked"]
Breadth = Literal["broad", "narrow", "none", "unknown"]
"""How far a finetune reached: beyond its own domain, only within it, not even there, or unknown."""
Answer = Literal["found", "not_found", "reversed", "undecided", "not_separable", "blocked"]
"""Result of a leg of a contrast whose answer is known.

- found: the leg passes
- reversed: it would pass with the conditions exchanged
- not_found: its interval lies within the threshold on both sides of 0
- undecided: none of these
- not_separable: blocked, because the treated condition's source and negatives learnt the marker alike
- blocked: blocked for another reason
"""


class Meaning(NamedTuple):
    """A verdict in plain language."""

    headline: str
    """Half a line, for terminals and logs."""
    means: str
    """For readers of a report."""
    does_not_mean: str


MEANINGS: dict[VerdictName, Meaning] = {
    "flattened": Meaning(
        "both probes pass: the treated finetune made the personas more alike (H1)",
        "Both probes agree: after the treated finetune the personas' hidden states are closer to the source's, and "
        "personas that were never trained on emit the source's marker more often, each by at least the registered "
        "amount.",
        "It does not say that the finetune's content is the cause (“EM-specific” tests that), nor that other source "
        "personas, models or training runs behave alike beyond the scope given here.",
    ),
    "geometry_only": Meaning(
        "the geometric probe passes alone: the coupling recipe is the bottleneck (H2)",
        "The hidden states moved closer together by the registered amount, but the marker did not spread to untrained "
        "personas by the registered amount. The behavioural recipe, not the geometry, may be the bottleneck.",
        "It does not show that behaviour is unaffected: leakage below the threshold is not evidence of no leakage. A "
        "coupling that adapts attention can still distinguish similar personas, because it reads their prompts again.",
    ),
    "behaviour_only": Meaning(
        "the behavioural probe passes alone: the recipe explains it, not the geometry (H2)",
        "The marker spread to untrained personas by the registered amount, but their hidden states did not move closer "
        "to the source's by the registered amount. The training recipe explains this better than a flatter persona "
        "space.",
        "It does not show that the geometry is unchanged, only that the registered effect was not reached.",
    ),
    "falsified": Meaning(
        "neither probe shows flattening for this source persona (kill criterion met)",
        "The registered kill criterion is met: hidden states did not move closer to the source's in any layer, and "
        "leakage rose by no more than the registered bound. For this source persona the claim fails.",
        "It does not show that no finetune flattens persona space, nor that another source persona would give the same "
        "answer.",
    ),
    "inconclusive": Meaning(
        "a leg is blocked, or the numbers lie between passing and the kill criterion",
        "The registered rule does not decide: a gate failed, a leg was blocked, or the effects lie between passing and "
        "the kill criterion. The reasons and the distance to each threshold say which.",
        "It is neither evidence for flattening nor evidence against it.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers behind a verdict."""

    main: Contrast
    """The deciding contrast, treated - control."""
    treated_benign: Contrast | None = None
    benign_control: Contrast | None = None
    seeds: Seeds
    conjunction_p: float | None = None
    """p of the intersection-union test of both legs: the larger of the two p-values."""
    manipulation: dict[str, Breadth] | None = None
    """How far each condition's finetune reached; None where that was not measured."""


@dataclass(frozen=True, kw_only=True)
class KnownOutcome:
    """The rule's result on a contrast whose answer is known."""

    treated: str
    control: str
    verdict: VerdictName
    legs: dict[str, Answer]
    """By leg: `geometry` and `leakage`."""
    expected: dict[str, KnownLeakage | None]
    """By leg; None expects nothing."""
    as_expected: bool
    """Whether every leg with an expected answer gave it."""
    evidence: Contrast
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of the registered rule."""

    verdict: VerdictName
    confidence: Confidence
    """flatprobe's own: it takes crossed inference, seeds and dose into account."""
    as_registered_confidence: Confidence
    """The confidence that the registered proposal gives this verdict with one seed."""
    em_specific: Specific
    """Whether the effect is specific to the treated finetune, compared with the benign one."""
    em_specific_reason: str
    scope: str
    """What the deciding intervals generalise to."""
    registered: RegistrationState
    smoke: bool
    """Whether it comes from a smoke run, which supports no claim."""
    geometric_leg: LegResult
    behavioural_leg: LegResult
    dose_unmatched: bool | None
    """Whether source rates differ by more than the tolerance; None where they are unknown."""
    reasons: tuple[str, ...]
    """Named reasons and warnings, the deciding ones first."""
    distances: dict[str, float | None]
    """Value minus threshold in the value's units: positive passes, and for `kill_*` survives."""
    gates: tuple[Gate, ...]
    numbers: Numbers
    known_answers: tuple[KnownOutcome, ...] = ()
    """Positive and null controls of the probes, by the same rule; empty where the study has none."""

    def instrument(self) -> str | None:
        """Whether the known answers came out as expected, in half a line; None without known answers."""
        if not self.known_answers:
            return None
        right, total = sum(known.as_expected for known in self.known_answers), len(self.known_answers)
        return f"Instrument check {'passed' if right == total else 'failed'}: {right} of {total} as expected"

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
        derived = {"headline": self.headline(), "instrument": self.instrument(), "legs": legs}
        return {**body, **derived, "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote. Raises ValueError (pydantic's) for an object that does not fit."""
        legs = body.get("legs") or {}
        flat = {"geometric_leg": legs.get("geometric"), "behavioural_leg": legs.get("behavioural")}
        return TypeAdapter(cls).validate_python({**body, **flat})
