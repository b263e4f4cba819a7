"""Hidden states of one condition at one token position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from flatprobe.config.blocks import RESPONSES, Responses
from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.inner_products import persona_gram


class StateKind(NamedTuple):
    """Where hidden states are read: on whose answers, and at which token position."""

    responses: Responses
    position: str

    def __str__(self) -> str:
        """Its one text form, in files and tables: `own.last_response_token`."""
        return f"{self.responses}.{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; ValueError for another text."""
        head, _, position = text.partition(".")
        for responses in RESPONSES:
            if head == responses and position:
                return cls(responses, position)
        raise ValueError(f"{text!r} is no kind of states: write own.POSITION or fixed.POSITION")


@dataclass(frozen=True, eq=False)
class States:
    """h[persona, question, layer, hidden] of one condition, for one position and one kind of responses."""

    condition: str
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    layers: tuple[int, ...]
    h_PQLD: NDArray[np.float32]
    seeds: int = 1
    """Training runs laid side by side along the hidden axis, so that inner products are sums over them."""

    def __post_init__(self) -> None:
        shape = (len(self.personas), len(self.questions), len(self.layers))
        if self.h_PQLD.ndim != 4 or self.h_PQLD.shape[:3] != shape or 0 in self.h_PQLD.shape:
            raise ValueError(
                f"h_PQLD of {self.condition} has shape {self.h_PQLD.shape}, not {(*shape, 'hidden')}"
            )
        if self.seeds < 1 or self.h_PQLD.shape[3] % self.seeds:
            raise ValueError(f"a hidden axis of {self.h_PQLD.shape[3]} does not hold {self.seeds} seeds")
        for names in (self.personas, self.questions, self.layers):
            if len(set(names)) != len(names):
                raise ValueError(f"{self.condition} names a persona, question or layer twice: {names}")
        if not np.isfinite(self.h_PQLD).all():
            raise UserError.one(
                "states.TODO",
                f"states of {self.condition}",
                "a hidden state is not finite",
                "recompute the states",
            )

    def layer(self, layer: int, personas: Sequence[str] | None = None) -> Array:
        """States of one layer in float64, (P, Q, D), for the personas named, in that order (default: all)."""
        rows = [self.personas.index(persona) for persona in (self.personas if personas is None else personas)]
        chosen: Array = self.h_PQLD[:, :, self.layers.index(layer)][rows].astype(np.float64)
        return chosen

    def gram(self, layer: int, personas: Sequence[str] | None = None) -> Array:
        """Gram matrix of `layer(...)`, shape (P, Q, P, Q)."""
        return persona_gram(self.layer(layer, personas))

    def without(self, unfinished: Sequence[str]) -> States:
        """The same states without the questions named (unfinished in any condition: left out pairwise)."""
        kept = [index for index, question in enumerate(self.questions) if question not in set(unfinished)]
        if not kept:
            raise UserError.one(
                "states.TODO",
                f"states of {self.condition}",
                "no question is left",
                "raise geometry.max_new_tokens",
            )
        questions = tuple(self.questions[index] for index in kept)
        return replace(self, questions=questions, h_PQLD=self.h_PQLD[:, kept])


def check_personas(states: States, source: str, bystanders: Sequence[str]) -> tuple[str, ...]:
    """Source and bystanders, source first; UserError where one is absent or repeated, or none is given."""
    pool = (source, *bystanders)
    absent = [persona for persona in pool if persona not in states.personas]
    if absent:
        raise UserError.one(
            "states.TODO",
            f"states of {states.condition}",
            f"no states of {', '.join(absent)}",
            "probe them first",
        )
    if not bystanders or len(set(pool)) != len(pool):
        raise UserError.one(
            "states.TODO", "bystanders", "empty, or a persona is named twice", "name each bystander once"
        )
    return pool


def check_comparable(treated: States, control: States) -> None:
    """UserError unless both conditions have the same questions, layers and hidden size."""
    place = f"states of {treated.condition} and {control.condition}"
    if treated.questions != control.questions:
        raise UserError.one(
            "states.TODO", place, "the questions differ", "leave unfinished answers out of both conditions"
        )
    same_size = treated.h_PQLD.shape[3] == control.h_PQLD.shape[3] and treated.seeds == control.seeds
    if treated.layers != control.layers or not same_size:
        raise UserError.one(
            "states.TODO", place, "layers, hidden size or seeds differ", "probe both with the same study"
        )
