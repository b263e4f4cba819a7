"""The report's fixed sentences: names of measures and distances, a glossary, and the limits of what was found.

What a verdict means stands with the verdict itself, in `statistics.verdict.MEANINGS`.
"""

from __future__ import annotations

from typing import NamedTuple

REGISTERED: dict[str, str] = {
    "confirmatory": "the study was registered before its first stage ran",
    "exploratory": "the study was not registered before its first stage ran",
    "deviated": "what ran differs from what was registered",
}

MEASURES: dict[str, str] = {
    "cosine_difference": "cosine difference",
    "crossvalidated_cosine_difference": "cross-validated cosine difference",
    "trimmed_cosine_difference": "cosine difference, largest dimensions left out",
    "translation_share": "translation share T",
    "cosine_difference_minus_translation": "cosine difference less T",
    "noise_share": "noise share",
    "contraction": "contraction (−log scatter ratio)",
    "scatter_ratio": "scatter ratio",
    "noise_ratio": "noise ratio",
    "contraction_minus_noise": "contraction less noise",
}
"""Measures of the table per layer, in its order; further ones appear under their own names in the full
list."""


def measure_title(name: str) -> str:
    """A measure's name as it is printed."""
    return MEASURES.get(name, name.replace("_", " "))


DETECTORS: dict[str, str] = {
    "strict": "marker anywhere",
    "end_anchored": "marker at the end",
    "start_anchored": "marker at the start",
}
"""What counts as a marked completion."""


class Distance(NamedTuple):
    """How a distance to a threshold is printed, and which side of it is which."""

    what: str
    unit: str
    """`points` for differences of shares, `plain` otherwise."""
    above: str = "passes"
    below: str = "short"
    at_zero: bool = True
    """Whether a value exactly at its threshold counts as above it."""

    def side(self, distance: float | None) -> str:
        """The side of the threshold that a distance is on."""
        if distance is None:
            return "not known"
        return self.above if distance > 0 or (distance == 0 and self.at_zero) else self.below


DISTANCES: dict[str, Distance] = {
    "geometry_threshold": Distance("geometric effect, from its threshold", "plain"),
    "geometry_interval": Distance("geometric interval’s lower end, from 0", "plain", at_zero=False),
    "leakage_margin": Distance("leakage difference, from its margin", "points"),
    "leakage_p": Distance("registered p, below its bound by", "plain", at_zero=False),
    "kill_geometry": Distance(
        "kill: largest layer effect, above the bound by",
        "plain",
        "survives",
        "on the kill side",
        at_zero=False,
    ),
    "kill_leakage": Distance(
        "kill: leakage difference, above the bound by",
        "points",
        "survives",
        "on the kill side",
        at_zero=False,
    ),
    "dose": Distance("difference of source rates, within the tolerance by", "points", "matched", "unmatched"),
    "em_specific_geometry": Distance("EM-specific: geometric effect over benign, from its margin", "plain"),
    "em_specific_leakage": Distance("EM-specific: leakage over benign, from its margin", "points"),
}
"""Keys of the verdict's distances."""

MANIPULATION: dict[str, str] = {
    "broad": "the taught answers became likelier both in domain and outside it",
    "narrow": "the taught answers became likelier in domain; outside it no rise is shown",
    "none": "no rise of the taught answers is shown in domain",
    "unknown": "there are too few pairs, or none, in domain or outside it to tell",
}
"""What a finetune did to taught answers; a rise is one whose 95 % interval lies above 0."""

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "study",
        "The registered file with everything that can change a number.",
    ),
    (
        "condition",
        "One checkpoint before coupling: the model itself, or a finetune of it. The decision compares the "
        "treated condition with the control; the benign one decides whether an effect is specific.",
    ),
    (
        "persona, panel",
        "A system prompt, and the named set of them.",
    ),
    (
        "roles",
        "Source (taught the marker), negatives (trained without it), bystanders (never trained on; the "
        "verdict is about them), reserve (random negatives are drawn from it), references (reported "
        "beside).",
    ),
    (
        "coupling",
        "The LoRA that binds the marker to the source persona, on top of a condition's checkpoint.",
    ),
    (
        "completion, cell",
        "One sampled answer; one (persona, question) pair with its completions.",
    ),
    (
        "leakage",
        "Share of completions that contain the marker, among personas that were never trained on.",
    ),
    (
        "layer",
        "0-based decoder block; the state is the block's output before the final norm.",
    ),
    (
        "position",
        "The token, or mean over tokens, whose hidden state is read.",
    ),
    (
        "centroid",
        "Mean over questions of the state at a position, per condition, persona and layer.",
    ),
    (
        "headroom",
        "1 − cosine in the control: the largest cosine difference that could be seen.",
    ),
    (
        "cosine difference",
        "Mean cosine of source and bystander centroids, treated minus control. It also moves when all "
        "personas shift together, and when answers merely become less noisy.",
    ),
    (
        "cross-validated cosine",
        "The same cosine from products of different questions only, so noise cancels.",
    ),
    (
        "translation share",
        "The part of the cosine difference that one common shift of every persona would give.",
    ),
    (
        "noise share",
        "Cosine difference less its cross-validated counterpart.",
    ),
    (
        "contraction",
        "−log of the ratio of squared source–bystander distances, treated to control; positive is flatter.",
    ),
    (
        "split-half reliability",
        "How well the centroids of one half of the questions predict the other half's, corrected to full "
        "length.",
    ),
    (
        "separability",
        "Share of held-out states whose nearest centroid is their own persona's; chance is 1/personas.",
    ),
    (
        "persona map",
        "The personas in a plane such that distances are those measured as well as a plane can; only distances mean "
        "anything, and conditions are turned onto each other without scaling.",
    ),
    (
        "taught answer",
        "Of two answers to a prompt, the one like those that a finetune is trained on: a careless one beside a sound "
        "one, or the imitated persona’s beside the persona’s own.",
    ),
    (
        "λ",
        "Weight of the unlikelihood term that pushes the marker away from the negatives; selected on the "
        "control alone, on questions that no probe uses.",
    ),
    (
        "dose",
        "How strongly the source acquired the marker; conditions are comparable at equal dose.",
    ),
    (
        "gate",
        "A check that must pass before what it guards may decide; one not evaluated counts as failed there.",
    ),
    (
        "p above the margin, p equivalent",
        "Of the opposite claims: that the difference is at most the margin, and that it is at least as large as "
        "the equivalence margin, up or down. Small means the claim is refuted.",
    ),
    (
        "adjusted p",
        "The p-value after allowing for the choice among several layers or λ: by max-T or by Holm's method.",
    ),
    (
        "p of both legs",
        "The larger of the two legs' p. To claim both needs both, so no correction for two tests is due.",
    ),
    (
        "specification",
        "One defensible way to compute a contrast: an estimator, a pool, a λ, and what counts as marked.",
    ),
    (
        "massive activation",
        "A hidden dimension whose size exceeds the typical one many times over; a few such can dominate a "
        "cosine.",
    ),
    (
        "scope",
        "The population that an interval or p-value speaks for.",
    ),
    (
        "estimate, decision, verdict",
        "A number with interval and p; the registered rule; its outcome.",
    ),
)

LIMITS: tuple[str, ...] = (
    "One source persona is one draw: a verdict is about this source until other sources are studied.",
    "With a single seed every interval speaks of these checkpoints, not of new training runs.",
    "The marker is a probe of persona separation, not of harm; a leaked marker is not misaligned behaviour.",
    "The registered cell bootstrap treats cells as independent; personas and questions are shared, so "
    "read it beside the estimators whose scope is new personas and new questions.",
    "Raw cosines move under translation and noise as well as contraction: read them with their shares.",
)
