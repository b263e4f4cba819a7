"""Every geometric measure by explicit loops over vectors: slow, plain, and independent of Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def oracle(treated_PQD: Array, control_PQD: Array, drawn: Sequence[int]) -> dict[str, float]:
    """Measures on the questions drawn (with repeats); persona 0 is the source; ratios as logs."""
    treated, control = Side(treated_PQD, drawn), Side(control_PQD, drawn)
    move_D = (treated.centroids_PD - control.centroids_PD).mean(axis=0)
    translation = mean_cosine(control.centroids_PD + move_D) - mean_cosine(control.centroids_PD)
    top = np.argsort(-np.abs(control_PQD).mean(axis=(0, 1)))[:3]
    trimmed = [Side(np.delete(h, top, axis=2), drawn) for h in (treated_PQD, control_PQD)]
    cosine = mean_cosine(treated.centroids_PD) - mean_cosine(control.centroids_PD)
    crossvalidated = treated.crossvalidated_cosine() - control.crossvalidated_cosine()
    factor = (control.norm() / treated.norm()) ** 2
    scatter, noise = (np.log(getattr(treated, name)() / getattr(control, name)()) for name in ("scatter", "noise"))
    return {
        "cosine_difference": cosine,
        "crossvalidated_cosine_difference": crossvalidated,
        "translation_share": translation,
        "cosine_difference_minus_translation": cosine - translation,
        "noise_share": cosine - crossvalidated,
        "trimmed_cosine_difference": mean_cosine(trimmed[0].centroids_PD) - mean_cosine(trimmed[1].centroids_PD),
        "contraction": -scatter - np.log(factor),
        "scatter_ratio": scatter + np.log(factor),
        "noise_ratio": noise + np.log(factor),
        "contraction_minus_noise": noise - scatter,
        "unscaled_scatter_ratio": scatter,
        "unscaled_noise_ratio": noise,
        "norm_ratio": -np.log(factor) / 2,
        "participation_ratio_difference": treated.participation_ratio() - control.participation_ratio(),
    }


def mean_cosine(vectors_PD: Array) -> float:
    unit = vectors_PD / np.linalg.norm(vectors_PD, axis=1, keepdims=True)
    return float(np.mean([unit[0] @ other for other in unit[1:]]))


class Side:
    """One condition on the questions drawn."""

    def __init__(self, h_PQD: Array, drawn: Sequence[int]) -> None:
        self.h_PQD = h_PQD
        self.personas = len(h_PQD)
        self.centroids_PD = h_PQD[:, list(drawn)].mean(axis=1)
        self.apart = [(q, r) for q in drawn for r in drawn if q != r]

    def product(self, first: int, second: int) -> float:
        """Inner product of two centroids over distinct original questions."""
        return float(np.mean([self.h_PQD[first, q] @ self.h_PQD[second, r] for q, r in self.apart]))

    def distance(self, first: int, second: int) -> float:
        gap_QD = self.h_PQD[first] - self.h_PQD[second]
        return float(np.mean([gap_QD[q] @ gap_QD[r] for q, r in self.apart]))

    def crossvalidated_cosine(self) -> float:
        source = self.product(0, 0)
        return float(
            np.mean([self.product(0, p) / np.sqrt(source * self.product(p, p)) for p in range(1, self.personas)])
        )

    def norm(self) -> float:
        return float(np.mean([np.sqrt(self.product(p, p)) for p in range(self.personas)]))

    def scatter(self) -> float:
        return float(np.mean([self.distance(0, p) for p in range(1, self.personas)]))

    def noise(self) -> float:
        """Half the squared distance of two distinct questions, of states minus the question's mean."""
        x_PQD = self.h_PQD - self.h_PQD.mean(axis=0)
        halves = [((x_PQD[:, q] - x_PQD[:, r]) ** 2).sum() / 2 for q, r in self.apart]
        return float(np.mean(halves)) / (self.personas - 1)

    def participation_ratio(self) -> float:
        every = range(self.personas)
        gram = np.array([[self.product(a, b) for b in every] for a in every])
        gram = (gram + gram.T) / 2
        centre = np.eye(self.personas) - 1 / self.personas
        values = np.linalg.eigvalsh(centre @ gram @ centre)
        return float(values.sum() ** 2 / (values**2).sum())
