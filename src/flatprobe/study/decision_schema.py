"""The decision block of a study: legs, margins, gates, and contrasts whose answer is known."""

from __future__ import annotations

from typing import Literal

from flatprobe.config.blocks import Block, Count, Position, Positive, Probability, Responses

Known = Literal["found", "not_found"]
KnownLeakage = Literal["found", "not_found", "not_separable"]
RegistrationState = Literal["confirmatory", "exploratory", "deviated"]
"""How a run relates to its registration: registered before its first stage; not registered before it; registered as
another study."""


class GeometricLeg(Block):
    measure: Literal["cosine_difference", "contraction"] = "cosine_difference"
    """The deciding measure; for both, larger means flatter (contraction is -log of the scatter ratio)."""
    position: Position = "last_response_token"
    """The deciding position."""
    responses: Responses = "own"
    """Whose answers the states are read on."""
    threshold: float = 0.05
    """Smallest effect that passes, in cosine units, or in -log ratio (0.223 is a ratio of .8)."""
    level: Probability = 0.95
    """Level of the interval over questions, which must exclude 0."""


class BehaviouralLeg(Block):
    margin: Probability = 0.15
    """Smallest rise in pooled bystander leakage that passes."""
    p_below: Probability = 0.001
    """The registered p must be below this."""
    estimator: Literal["cell_bootstrap", "crossed_anova"] = "cell_bootstrap"
    """The deciding estimator."""
    resamples: Count = 10000
    """Resamples of the bootstraps."""
    level: Probability = 0.95
    """Level of the intervals of leakage differences."""


class Kill(Block):
    geometry: float = 0.0
    """The geometric effect must be at most this in every layer."""
    leakage: float = 0.05
    """The leakage difference must be at most this; also the margin of the equivalence test, so above 0."""


class EmSpecific(Block):
    geometry_margin: float = 0.02
    """Margin of treated minus benign, in the deciding measure's units."""
    leakage_margin: float = 0.05
    """Margin of treated minus benign leakage."""


class ConfidenceRule(Block):
    significance: Probability = 0.05
    """The p of the crossed analyses, of no difference and of equivalence, must be below this to raise a confidence."""
    seeds: Count = 3
    """Training seeds from which on agreement between them raises a confidence."""


class KnownAnswer(Block):
    """A contrast whose answer is known beforehand, so that it says whether the probes can be believed."""

    treated: str
    """The condition that enters with a plus sign."""
    control: str
    """The condition it is compared with."""
    geometry: Known | None = None
    """What the geometric leg must come to: `found` is a leg that passes, `not_found` one whose interval lies within the
    threshold on both sides of 0 (a blocked leg is neither); null asks nothing of it."""
    leakage: KnownLeakage | None = None
    """The same of the behavioural leg, or `not_separable`: that the treated arm's coupling, unlike the control's,
    cannot tell the source from the negatives, by teacher-forced probabilities."""


class Gates(Block):
    level: Probability = 0.95
    """Level of the intervals that gates look at: manipulation, and what a low source rate means."""
    length_tolerance: Probability = 0.10
    """Largest relative difference of length medians and interquartile ranges between training groups."""
    merge_kl: Positive = 1e-3
    """Largest mean KL between merged and unmerged model, in nats."""
    source_rate: Probability = 0.60
    """Smallest source rate."""
    source_match: Literal["strict", "end_anchored"] = "strict"
    """Which completions of the source count for its rate: with the marker anywhere, or at the end."""
    marker_at_end: Probability = 0.80
    """Smallest share of marked completions that end with the marker."""
    spam: Probability = 0.05
    """Largest share of marked completions with two markers or more."""
    truncation: Probability = 0.05
    """Largest share of completions that hit the token limit."""
    parity: Probability = 0.95
    """Smallest share of greedy tokens that agree with the reference before the first divergence."""
    reliability: Probability = 0.80
    """Smallest split-half reliability of centroids in the control."""
    reliability_blocks: bool = False
    """Whether a low reliability blocks the geometric leg, or only warns."""
    dose: Probability = 0.10
    """A larger difference of source rates is flagged `dose_unmatched`."""


class Decision(Block):
    treated: str = "em_first"
    """The condition in question."""
    control: str = "base_first"
    """The condition it is compared with."""
    benign: str | None = "benign_first"
    """The condition that decides whether an effect is specific to the treated finetune."""
    known_answers: tuple[KnownAnswer, ...] = ()
    """Positive and null controls, decided by the same rule beside the study's own contrast."""
    geometry: GeometricLeg = GeometricLeg()
    """The geometric leg."""
    behaviour: BehaviouralLeg = BehaviouralLeg()
    """The behavioural leg."""
    kill: Kill = Kill()
    """What falsifies."""
    em_specific: EmSpecific = EmSpecific()
    """What makes an effect specific."""
    confidence: ConfidenceRule = ConfidenceRule()
    """What raises a confidence."""
    gates: Gates = Gates()
    """Thresholds of the gates."""
