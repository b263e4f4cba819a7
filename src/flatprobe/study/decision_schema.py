"""The decision block of a study: legs, margins, gates, and contrasts whose answer is known."""

from __future__ import annotations

from typing import Literal

from flatprobe.config.blocks import Block, Count, Position, Positive, Probability, Responses

Known = Literal["found", "not_found"]
KnownLeakage = Literal["found", "not_found", "not_separable"]
RegistrationState = Literal["confirmatory", "exploratory", "deviated"]
"""How a run relates to its registration: registered before its first stage, not registered before it, or registered as
another study."""


class GeometricLeg(Block):
    measure: Literal["cosine_difference", "contraction"] = "cosine_difference"
    """The deciding measure. For both, larger means flatter; contraction is -log of the scatter ratio."""
    position: Position = "last_response_token"
    """The deciding token position."""
    responses: Responses = "own"
    """Whose answers the states are read on."""
    threshold: float = 0.05
    """Smallest effect that passes, in cosine units or in -log ratio (0.223 is a ratio of .8)."""
    level: Probability = 0.95
    """Confidence level of the interval over questions, which must exclude 0."""


class BehaviouralLeg(Block):
    margin: Probability = 0.15
    """Smallest rise in pooled bystander leakage that passes."""
    p_below: Probability = 0.001
    """The p value of the deciding estimator must be below this."""
    estimator: Literal["cell_bootstrap", "crossed_anova"] = "cell_bootstrap"
    """The deciding estimator."""
    resamples: Count = 10000
    """Resamples of the bootstraps."""
    level: Probability = 0.95
    """Confidence level of the intervals of leakage differences."""


class Kill(Block):
    geometry: float = 0.0
    """The geometric effect must be at most this in every layer."""
    leakage: float = 0.05
    """The leakage difference must be at most this. It is also the margin of the equivalence test, so it is above 0."""


class EmSpecific(Block):
    geometry_margin: float = 0.02
    """Margin of treated minus benign, in the deciding measure's units."""
    leakage_margin: float = 0.05
    """Margin of treated minus benign leakage."""


class ConfidenceRule(Block):
    significance: Probability = 0.05
    """The p values of the crossed analyses, for no difference and for equivalence, must be below this to raise a
    confidence."""
    seeds: Count = 3
    """Smallest number of training seeds whose agreement raises a confidence."""


class KnownAnswer(Block):
    """A contrast whose answer is known before the run. It tests the probes."""

    treated: str
    """The treated condition; the contrast is treated - control."""
    control: str
    """The condition it is compared with."""
    geometry: Known | None = None
    """Expected result of the geometric leg. `found`: the leg passes. `not_found`: its interval lies within the
    threshold on both sides of 0. A blocked leg is neither. Null: no expectation."""
    leakage: KnownLeakage | None = None
    """Expected result of the behavioural leg, as above, or `not_separable`: by teacher-forced probabilities, the
    treated condition's coupling cannot separate the source from the negatives, and the control's can."""


class Gates(Block):
    level: Probability = 0.95
    """Confidence level of the intervals that gates use: for manipulation, and for the reason of a low source rate."""
    length_tolerance: Probability = 0.10
    """Largest relative difference between training groups in the median and the interquartile range of lengths."""
    merge_kl: Positive = 1e-3
    """Largest mean KL divergence between merged and unmerged model, in nats."""
    source_rate: Probability = 0.60
    """Smallest source rate."""
    source_match: Literal["strict", "end_anchored"] = "strict"
    """Which completions count for the source rate: those with the marker anywhere, or at the end."""
    marker_at_end: Probability = 0.80
    """Smallest share of marked completions that end with the marker."""
    spam: Probability = 0.05
    """Largest share of marked completions with two or more markers."""
    truncation: Probability = 0.05
    """Largest share of completions that reach the token limit."""
    parity: Probability = 0.95
    """Smallest share of greedy tokens before the first difference from the reference engine."""
    reliability: Probability = 0.80
    """Smallest split-half reliability of centroids in the control."""
    reliability_blocks: bool = False
    """Whether low reliability blocks the geometric leg; otherwise it only warns."""
    dose: Probability = 0.10
    """A larger difference in source rates is flagged as `dose_unmatched`."""


class Decision(Block):
    treated: str = "em_first"
    """The treated condition."""
    control: str = "base_first"
    """The condition it is compared with."""
    benign: str | None = "benign_first"
    """The condition that shows whether an effect is specific to the treated finetune."""
    known_answers: tuple[KnownAnswer, ...] = ()
    """Positive and null controls, decided by the same rule as the study's main contrast."""
    geometry: GeometricLeg = GeometricLeg()
    """The geometric leg."""
    behaviour: BehaviouralLeg = BehaviouralLeg()
    """The behavioural leg."""
    kill: Kill = Kill()
    """When the hypothesis is falsified."""
    em_specific: EmSpecific = EmSpecific()
    """When an effect is specific to the treated finetune."""
    confidence: ConfidenceRule = ConfidenceRule()
    """What raises a confidence."""
    gates: Gates = Gates()
    """Thresholds of the gates."""

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """(treated, control) pairs: the deciding one, treated - benign, benign - control."""
        pairs = [(self.treated, self.control)]
        if self.benign is not None:
            pairs += [(self.treated, self.benign), (self.benign, self.control)]
        return pairs
