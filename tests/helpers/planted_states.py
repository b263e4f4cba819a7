"""States with a known cause of every difference, h = base + persona + question + noise, and their contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.contrasts import GeometryOptions, geometry_contrasts
from flatprobe.statistics.geometry.states import StateKind, States

PERSONAS = ("source", "near", "middle", "far", "further", "reserve")
BYSTANDERS = ("near", "middle", "far", "further")
QUESTIONS = tuple(f"q{index:02d}" for index in range(12))
LAYERS = (3, 7)
HIDDEN = 64
KIND = StateKind("own", "last_response_token")


def planted_states(
    condition: str,
    *,
    persona: float = 1.0,
    noise: float = 1.0,
    translation: float = 0.0,
    scale: float = 1.0,
    rotated: bool = False,
    seed: int = 5,
) -> States:
    """States with parts drawn by `seed` and scaled by the arguments; `translation` is along the common vector."""
    generator = np.random.default_rng(seed)
    shape = (len(PERSONAS), len(QUESTIONS), len(LAYERS), HIDDEN)
    base = generator.normal(size=HIDDEN)
    base *= 30 / np.linalg.norm(base)
    persona_PLD = generator.normal(size=(shape[0], 1, shape[2], HIDDEN))
    persona_PLD -= persona_PLD.mean(axis=0)
    question_QLD = 0.3 * generator.normal(size=(1, *shape[1:]))
    noise_PQLD = 0.8 * generator.normal(size=shape)
    h_PQLD = (1 + translation) * base + persona * persona_PLD + question_QLD + noise * noise_PQLD
    if rotated:
        rotation, _ = np.linalg.qr(generator.normal(size=(HIDDEN, HIDDEN)))
        h_PQLD = h_PQLD @ rotation
    return States(condition, PERSONAS, QUESTIONS, LAYERS, as_float32(scale * h_PQLD))


def as_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def options(**changes: Any) -> GeometryOptions:
    """Options of a small contrast, with changes."""
    defaults = {"kind": KIND, "pool": "bystanders", "resamples": 50, "seed": 1, "level": 0.95}
    return GeometryOptions(**{**defaults, **changes})


def contrast_of(
    treated: States, control: States, bystanders: Sequence[str] = BYSTANDERS, **changes: Any
) -> list[Estimate]:
    """Estimates of `treated - control`, the persona `source` against these bystanders; `changes` are of `options`."""
    states = {"treated": treated, "control": control}
    return geometry_contrasts(states, [("treated", "control")], "source", bystanders, options(**changes))
