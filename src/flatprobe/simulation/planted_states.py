"""Hidden states with a known cause of every difference between two conditions.

h[p, q] = common + persona[p] + question[q] + noise[p, q], where all parts are Gaussian and drawn separately per layer.
Sizes are standard deviations per hidden dimension. So the cosine of two personas' noise-free centroids is close to
common^2 / (common^2 + spread^2), and the expected squared distance of two personas is 2 spread^2 hidden.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.states import States

Direction = Literal["across", "along", "around"]
"""Direction of a translation:

- across: random, nearly orthogonal to everything else; lengthens the states a little
- along: that of the common vector; lengthens them most
- around: rotates the common vector on its sphere; changes no length
"""
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
    direction: Direction = "across",
    rotation: float = 0.0,
    scale: float = 1.0,
    noise: float = 4.0,
    noise_treated: float | None = None,
    jitter: float = 0.0,
    common: float = 3.0,
    spread: float = 1.0,
    question: float = 1.0,
    questions_treated: int | None = None,
) -> tuple[States, States]:
    """Draw (treated, control) with the same common, persona and question parts, and separate noise.

    The treated condition is changed in this order:

    - `jitter` in [0, 1] redraws that share of every persona's deviation from the personas' mean, sqrt(1 - jitter^2)
      deviation + jitter new, which keeps its expected size
    - `contraction` multiplies the deviations (0.5 halves every distance)
    - `translation` is the size, per hidden dimension, of one vector per layer, in `direction`, added to every state
    - noise of SD `noise_treated` (default: `noise`) is added
    - `rotation` is the share of hidden dimensions that one random orthogonal matrix rotates
    - `scale` multiplies the states
    - only the first `questions_treated` questions stay (default: all)

    The source is the first persona; layers are numbered from 0. Raises ValueError for sizes below 1, a jitter or
    rotation outside [0, 1], a negative SD, and a translation `around` that is longer than the sphere's diameter.
    """
    sizes = (common, spread, question, noise, noise if noise_treated is None else noise_treated, translation)
    first = questions if questions_treated is None else questions_treated
    in_range = 0 <= jitter <= 1 and 0 <= rotation <= 1 and 1 <= first <= questions
    if min(personas, questions, layers, hidden) < 1 or not in_range or min(sizes) < 0:
        raise ValueError("planted states need sizes >= 1, shares in [0, 1] and no negative SD")
    shape = (personas, questions, layers, hidden)
    centre_LD = common * generator.normal(size=(layers, hidden))
    centre_QLD = centre_LD + question * generator.normal(size=(questions, layers, hidden))
    deviation_PLD = _deviations(generator, spread, (personas, layers, hidden))
    h_control = deviation_PLD[:, None] + centre_QLD + noise * generator.normal(size=shape)

    redrawn_PLD = _deviations(generator, spread, (personas, layers, hidden))
    jittered_PLD = (1 - jitter**2) ** 0.5 * deviation_PLD + jitter * redrawn_PLD
    move_LD = _translation(generator.normal(size=(layers, hidden)), centre_LD, translation, direction)
    h_treated = (contraction * jittered_PLD)[:, None] + centre_QLD + move_LD
    h_treated = h_treated + sizes[4] * generator.normal(size=shape)
    if rotated := round(rotation * hidden):
        orthogonal = np.linalg.qr(generator.normal(size=(rotated, rotated)))[0]
        h_treated = np.concatenate([h_treated[..., :rotated] @ orthogonal, h_treated[..., rotated:]], axis=-1)
    return _states("treated", scale * h_treated[:, :first]), _states("control", h_control)


def _translation(drawn_LD: Array, centre_LD: Array, size: float, direction: Direction) -> Array:
    """The vector added to every state of a layer; its length is (about) `size` times the root of the hidden size."""
    if direction == "across" or size == 0:
        return size * drawn_LD
    length = size * drawn_LD.shape[1] ** 0.5
    radius_L1 = np.linalg.norm(centre_LD, axis=1, keepdims=True)
    along_LD: Array = centre_LD / radius_L1
    if direction == "along":
        along_LD = length * along_LD
        return along_LD
    if length > 2 * radius_L1.min():
        raise ValueError("planted states cannot move around the common vector's sphere by more than its diameter")
    across_LD = drawn_LD - (drawn_LD * along_LD).sum(axis=1, keepdims=True) * along_LD
    across_LD = across_LD / np.linalg.norm(across_LD, axis=1, keepdims=True)
    angle_L1 = 2 * np.arcsin(length / (2 * radius_L1))  # the translation is its chord
    move_LD: Array = radius_L1 * ((np.cos(angle_L1) - 1) * along_LD + np.sin(angle_L1) * across_LD)
    return move_LD


def _deviations(generator: np.random.Generator, spread: float, shape: tuple[int, int, int]) -> Array:
    """Persona parts minus their mean, (P, L, D); the mean belongs to the common part."""
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
