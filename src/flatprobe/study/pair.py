"""What `flatprobe geometry` compares: two checkpoints, who is asked what, and where states are read.

A study without training: no coupling, no verdict, and no name; its defaults are the study schema's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.config.blocks import Position, Responses
from flatprobe.models.reference import Reference
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Precision
from flatprobe.study.schema import Geometry

REGISTERED_DEPTH = 28
"""Decoder blocks of the model that the registered layers were chosen for."""


@dataclass(frozen=True)
class Pair:
    """Two checkpoints and how they are compared; everything that can change a number."""

    base: Reference
    treated: Reference | None
    """The other checkpoint; None where `adapter` makes it from the base."""
    adapter: Reference | None
    personas: tuple[Persona, ...]
    """Source first, then bystanders, then references."""
    questions: tuple[Question, ...]
    """With their suffix."""
    layers: tuple[int, ...]
    positions: tuple[Position, ...]
    responses: tuple[Responses, ...]
    samples: int
    """Own answers per persona and question: 1 is greedy, several are sampled and their states averaged."""
    max_new_tokens: int
    resamples: int
    level: float
    seed: int
    precision: Precision

    @property
    def source(self) -> str:
        return next(persona.name for persona in self.personas if persona.role == "source")

    @property
    def bystanders(self) -> tuple[str, ...]:
        return tuple(persona.name for persona in self.personas if persona.role == "bystander")

    @property
    def identical(self) -> bool:
        """Whether both sides are the same files, so that every difference is 0 by construction."""
        return self.adapter is None and self.treated == self.base


def automatic_layers(depth: int) -> tuple[int, ...]:
    """The registered layers at the same relative depth of a model with `depth` blocks, each once."""
    shares = [(layer + 1) / REGISTERED_DEPTH for layer in Geometry().layers]
    return tuple(dict.fromkeys(max(0, int(share * depth + 0.5) - 1) for share in shares))


def chosen_position(positions: Sequence[Position]) -> Position:
    """The position that is shown first: the registered one where it is among them."""
    registered: Position = "last_response_token"
    return registered if registered in positions else positions[0]
