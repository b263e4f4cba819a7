"""Hidden states with a known cause of every difference: what a measure must and must not move under.

h[p, q] = common + persona[p] + question[q] + noise[p, q], all parts Gaussian and drawn afresh per layer; sizes
are standard deviations per hidden dimension. So the cosine of two personas' noise-free centroids is close to
common^2 / (common^2 + spread^2), and the squared distance of two personas is 2 spread^2 hidden in expectation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.states import States

SOURCE = "source"
"""Name of the first planted persona; the others are `bystander_1`, `bystander_2`, and so on."""


def planted_pair(
    generator: np.random.Generator,
    *,
    personas: int,
    questions: int,
    layers: int,
    hidden: int,
    contraction: float = 1.0,
    translation: float = 0.0,
    rotation: bool = False,
    scale: float = 1.0,
    noise: float = 4.0,
    noise_treated: float | None = None,
    jitter: float = 0.0,
    common: float = 3.0,
    spread: float = 1.0,
    question: float = 1.0,
) -> tuple[States, States]:
    """Draw (treated, control) that share common, persona and question parts; noise is drawn for each.

    What is done to the treated condition, in this order: `jitter` in [0, 1] redraws that share of every
    persona's deviation from the personas' mean, sqrt(1 - jitter^2) dev + jitter fresh, which leaves its
    expected size as it was; `contraction` multiplies the deviations (0.5 halves every distance); `translation`
    is the size of one random vector per layer that is added to every state; noise of SD `noise_treated`
    (default: `noise`) comes on top; `rotation` turns all of it by one random orthogonal matrix; `scale`
    multiplies it. The source is first; layers are numbered from 0. Raises ValueError for sizes below 1, a
    jitter outside [0, 1] and a negative SD.
    """
    sizes = (common, spread, question, noise, noise if noise_treated is None else noise_treated, translation)
    if min(personas, questions, layers, hidden) < 1 or not 0 <= jitter <= 1 or min(sizes) < 0:
        raise ValueError("planted states need sizes >= 1, a jitter in [0, 1] and no negative SD")
    shape = (personas, questions, layers, hidden)
    centre_LD = common * generator.normal(size=(layers, hidden))
    about_QLD = centre_LD + question * generator.normal(size=(questions, layers, hidden))
    deviation_PLD = _deviations(generator, spread, (personas, layers, hidden))
    h_control = deviation_PLD[:, None] + about_QLD + noise * generator.normal(size=shape)

    fresh_PLD = _deviations(generator, spread, (personas, layers, hidden))
    kept_PLD = (1 - jitter**2) ** 0.5 * deviation_PLD + jitter * fresh_PLD
    shift_LD = translation * generator.normal(size=(layers, hidden))
    h_treated = (contraction * kept_PLD)[:, None] + about_QLD + shift_LD
    h_treated = h_treated + sizes[4] * generator.normal(size=shape)
    if rotation:
        h_treated = h_treated @ np.linalg.qr(generator.normal(size=(hidden, hidden)))[0]
    return _states("treated", scale * h_treated), _states("control", h_control)


def _deviations(generator: np.random.Generator, spread: float, shape: tuple[int, int, int]) -> Array:
    """Persona parts about their own mean (P, L, D); the mean belongs to the common part."""
    drawn = spread * generator.normal(size=shape)
    centred: Array = drawn - drawn.mean(axis=0)
    return centred


def _states(condition: str, h_PQLD: Array) -> States:
    personas, questions, layers, _ = h_PQLD.shape
    values: NDArray[np.float32] = h_PQLD.astype(np.float32)
    return States(
        condition,
        (SOURCE, *(f"bystander_{index}" for index in range(1, personas))),
        tuple(f"q{index:02d}" for index in range(questions)),
        tuple(range(layers)),
        values,
    )
