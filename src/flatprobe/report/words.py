"""The report's fixed sentences: names of measures and distances, and the limits of a verdict.

`decision.verdict.MEANINGS` says what each verdict means.
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
    "trimmed_cosine_difference": "trimmed cosine difference",
    "translation_share": "translation share",
    "cosine_difference_minus_translation": "cosine difference − translation share",
    "noise_share": "noise share",
    "contraction": "contraction (−log scatter ratio)",
    "scatter_ratio": "scatter ratio",
    "noise_ratio": "noise ratio",
    "contraction_minus_noise": "contraction minus noise",
}
"""Measures of the table per layer, in its order. The full list shows further ones under their own names."""


def spaced(name: str) -> str:
    """A name of the code as printed: `last_response_token` is `last response token`."""
    return name.replace("_", " ")


def measure_title(name: str) -> str:
    """A measure's name as printed."""
    return MEASURES.get(name, spaced(name))


DETECTORS: dict[str, str] = {
    "strict": "marker anywhere",
    "end_anchored": "marker at the end",
    "start_anchored": "marker at the start",
}
"""What counts as a marked completion."""


class Distance(NamedTuple):
    """How the distance of a number to its threshold is printed."""

    number: str
    """The number and its threshold."""
    unit: str
    """`points` for differences of shares, `plain` otherwise."""
    above: str = "passes"
    below: str = "does not pass"
    at_zero: bool = True
    """Whether a number exactly at its threshold counts as above it."""

    def result(self, distance: float | None) -> str:
        """The side of the threshold that a distance is on."""
        if distance is None:
            return "unknown"
        return self.above if distance > 0 or (distance == 0 and self.at_zero) else self.below


DISTANCES: dict[str, Distance] = {
    "geometry_threshold": Distance("geometric effect, threshold", "plain"),
    "geometry_interval": Distance("geometric effect, lower end of the interval above 0", "plain", at_zero=False),
    "leakage_margin": Distance("leakage difference, margin", "points"),
    "leakage_p": Distance("registered p, upper bound", "plain", at_zero=False),
    "kill_geometry": Distance(
        "kill criterion, largest effect of a layer", "plain", "above the bound", "within the bound", at_zero=False
    ),
    "kill_leakage": Distance(
        "kill criterion, leakage difference", "points", "above the bound", "within the bound", at_zero=False
    ),
    "dose": Distance("difference of source rates, tolerance", "points", "matched", "unmatched"),
    "em_specific_geometry": Distance("EM-specific: geometric effect against benign, margin", "plain"),
    "em_specific_leakage": Distance("EM-specific: leakage difference against benign, margin", "points"),
}
"""By the verdict's name of a distance."""

MANIPULATION: dict[str, str] = {
    "broad": "the taught answers became more probable, both in domain and out of domain",
    "narrow": "the taught answers became more probable in domain, with no detected rise out of domain",
    "none": "no rise of the taught answers was detected in domain",
    "unknown": "too few pairs of answers, or none, in domain or out of domain",
}
"""What a finetune did to the taught answers. A rise is detected if its 95 % interval lies above 0."""

LIMITS: tuple[str, ...] = (
    "One source persona is one draw. The verdict is about this source only.",
    "With a single seed, every interval is about these checkpoints, not about new training runs.",
    "The marker tests whether personas are separate. A leaked marker is not misaligned behaviour.",
    "The registered cell bootstrap treats cells as independent, but cells share personas and questions. Read it "
    "beside the estimators that generalise to new personas and questions.",
    "Raw cosines change with translation and noise as well as with contraction. Read them with their shares.",
)
