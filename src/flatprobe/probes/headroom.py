"""Headroom: how far the cosine can still rise, known as soon as the control's states are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatprobe.planner.contracts import StatesSettings

PerLayer = dict[str, float]


def headroom(settings: StatesSettings, states: NDArray[np.float32]) -> PerLayer | None:
    """1 - the mean cosine of the source's centroid with the bystanders', per layer, from states [P, Q, L, D].

    It bounds any later rise of that cosine, in cosine units. None without bystanders.
    """
    roles = [persona.role for persona in settings.personas]
    if "bystander" not in roles:
        return None
    centroids: NDArray[Any] = states.mean(1, dtype=np.float64)  # [P, L, D]
    unit = centroids / np.linalg.norm(centroids, axis=-1, keepdims=True)
    bystanders = unit[[place for place, role in enumerate(roles) if role == "bystander"]]
    cosines = np.einsum("pld,ld->l", bystanders, unit[roles.index("source")]) / len(bystanders)
    return {str(layer): 1.0 - float(cosine) for layer, cosine in zip(settings.layers, cosines, strict=True)}


def over_layers(found: PerLayer | None) -> float | None:
    """Headroom of the registered aggregate, the mean over layers."""
    return None if found is None else float(np.mean(list(found.values())))
