"""The report's fixed sentences: what a verdict means and does not, whom a p-value speaks for, and a
glossary."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """A verdict in plain language."""

    means: str
    does_not_mean: str


MEANINGS: dict[str, Meaning] = {
    "flattened": Meaning(
        "Both probes agree: after the treated finetune the personas' hidden states are closer to the "
        "source's, and personas that were never trained on emit the source's marker more often, each by "
        "at least the registered amount.",
        "It does not say that the finetune's content is the cause (that is what “EM-specific” asks), nor "
        "that other source personas, models or training runs behave alike beyond the scope stated here.",
    ),
    "geometry_only": Meaning(
        "The hidden states moved closer together by the registered amount, but the marker did not spread "
        "to untrained personas by the registered amount. The behavioural recipe, not the geometry, may be "
        "the bottleneck.",
        "It does not show that behaviour is unaffected: leakage below the threshold is not evidence of no "
        "leakage.",
    ),
    "behaviour_only": Meaning(
        "The marker spread to untrained personas by the registered amount, but their hidden states did "
        "not move closer to the source's by the registered amount. The training recipe, rather than a "
        "flatter persona space, is the likelier explanation.",
        "It does not show that the geometry is unchanged, only that the registered effect was not reached.",
    ),
    "falsified": Meaning(
        "The registered kill criterion is met: hidden states did not move closer to the source's in any "
        "layer, and leakage rose by no more than the registered bound. For this source persona the claim "
        "fails.",
        "It does not show that no finetune flattens persona space, nor that another source persona would "
        "give the same answer.",
    ),
    "inconclusive": Meaning(
        "The registered rule does not decide: a gate failed, a leg was blocked, or the effects fall "
        "between passing and falsifying. The reasons and the distance to each threshold are listed below.",
        "It is neither evidence for flattening nor evidence against it.",
    ),
}

REGISTERED: dict[str, str] = {
    "confirmatory": "the study was registered before its first stage ran",
    "exploratory": "the study was not registered before its first stage ran",
    "deviated": "what ran differs from what was registered",
}

MEASURES: dict[str, str] = {
    "cosine_difference": "cosine difference",
    "crossvalidated_cosine_difference": "cross-validated cosine difference",
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

DISTANCES: dict[str, tuple[str, str]] = {
    "geometry_threshold": ("geometric effect, from its threshold", "plain"),
    "geometry_interval": ("geometric interval’s lower end, from 0", "plain"),
    "leakage_margin": ("leakage difference, from its margin", "points"),
    "leakage_p": ("registered p, below its bound by", "plain"),
    "kill_geometry": ("kill: largest layer effect, above the bound by", "plain"),
    "kill_leakage": ("kill: leakage difference, above the bound by", "points"),
    "dose": ("difference of source rates, within the tolerance by", "points"),
    "em_specific_geometry": ("EM-specific: geometric effect over benign, from its margin", "plain"),
    "em_specific_leakage": ("EM-specific: leakage over benign, from its margin", "points"),
}
"""Keys of the verdict's distances: what each is the distance of, and its unit."""

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
