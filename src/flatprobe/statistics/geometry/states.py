"""Hidden states of one condition at one token position."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from flatprobe.config.blocks import RESPONSES, Responses
from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.inner_products import persona_gram


class StateKind(NamedTuple):
    """Where hidden states are read: on whose answers, and at which token position."""

    responses: Responses
    position: str

    def __str__(self) -> str:
        """The one text form, in files and tables: `own.last_response_token`."""
        return f"{self.responses}.{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; ValueError for any other text."""
        head, _, position = text.partition(".")
        for responses in RESPONSES:
            if head == responses and position:
                return cls(responses, position)
        raise ValueError(f"{text!r} is no kind of states: write own.POSITION or fixed.POSITION")


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of one condition, for one position and one kind of responses.

    ```
    States("base", ("librarian", "pirate"), ("q1", "q2", "q3"), layers=(6, 10), h_PQLD=h)  # h: (2, 3, 2, D) float32
    ```

    Raises ValueError for a shape that does not fit the names and for repeated names, UserError for a state that is not
    finite.
    """

    condition: str
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    layers: tuple[int, ...]
    """0-based decoder blocks."""
    h_PQLD: NDArray[np.float32]
    """Shape (personas, questions, layers, hidden size)."""
    seeds: int = 1
    """Training runs side by side along the hidden axis, so that inner products are sums over them."""

    def __post_init__(self) -> None:
        shape = (len(self.personas), len(self.questions), len(self.layers))
        if self.h_PQLD.ndim != 4 or self.h_PQLD.shape[:3] != shape or 0 in self.h_PQLD.shape:
            raise ValueError(f"h_PQLD of {self.condition} has shape {self.h_PQLD.shape}, not {(*shape, 'hidden')}")
        if self.seeds < 1 or self.h_PQLD.shape[3] % self.seeds:
            raise ValueError(f"a hidden axis of {self.h_PQLD.shape[3]} does not hold {self.seeds} seeds")
        for names in (self.personas, self.questions, self.layers):
            if len(set(names)) != len(names):
                raise ValueError(f"{self.condition} names a persona, question or layer twice: {names}")
        if not np.isfinite(self.h_PQLD).all():
            place = f"states of {self.condition}"
            raise UserError.one("states.not_finite", place, "a hidden state is not finite", "recompute the states")

    @classmethod
    def load(cls, folder: Path, kind: StateKind, *, condition: str) -> Self:
        """Read one kind of states from the artifact of a run's `states` stage.

        The folder holds `states.safetensors`, with `str(kind)` as keys and arrays [P, Q, L, D] in float32, and
        `index.json`, with the names under `personas`, `questions` and `layers`.
        """
        index = json.loads((folder / "index.json").read_text())
        personas, questions, layers = (tuple(index[axis]) for axis in ("personas", "questions", "layers"))
        with safe_open(folder / "states.safetensors", framework="numpy") as file:
            return cls(condition, personas, questions, layers, file.get_tensor(str(kind)))

    def layer(self, layer: int, personas: Sequence[str] | None = None) -> Array:
        """States of one layer in float64, (P, Q, D), of these personas in this order (default: all)."""
        rows = [self.personas.index(persona) for persona in (self.personas if personas is None else personas)]
        h_PQD: Array = self.h_PQLD[:, :, self.layers.index(layer)][rows].astype(np.float64)
        return h_PQD

    def gram(self, layer: int, personas: Sequence[str] | None = None) -> Array:
        """Gram matrix of `layer(...)`, shape (P, Q, P, Q)."""
        return persona_gram(self.layer(layer, personas))

    def without(self, questions: Sequence[str]) -> States:
        """The same states without these questions. UserError where no question is left."""
        rows = [index for index, question in enumerate(self.questions) if question not in set(questions)]
        if not rows:
            place = f"states of {self.condition}"
            raise UserError.one("states.no_question", place, "no question is left", "raise geometry.max_new_tokens")
        left = tuple(self.questions[index] for index in rows)
        return replace(self, questions=left, h_PQLD=self.h_PQLD[:, rows])

    def labels(self, layer: int, kind: StateKind) -> dict[str, object]:
        """The leading columns of a table row about one layer."""
        return {"condition": self.condition, "layer": layer, "position": kind.position, "responses": kind.responses}


def check_personas(states: States, source: str, bystanders: Sequence[str]) -> tuple[str, ...]:
    """Source and bystanders, source first; UserError where one is absent or repeated, or there is no bystander."""
    personas = (source, *bystanders)
    absent = [persona for persona in personas if persona not in states.personas]
    if absent:
        raise UserError.one(
            "states.persona_missing",
            f"states of {states.condition}",
            f"no states of {', '.join(absent)}",
            "record their states first",
        )
    if not bystanders or len(set(personas)) != len(personas):
        raise UserError.one(
            "panel.bystanders",
            "bystanders",
            "none, or one persona twice",
            "name every bystander once, and not the source",
        )
    return personas


def check_comparable(treated: States, control: States) -> None:
    """UserError unless both conditions have the same questions, layers and hidden size."""
    place = f"states of {treated.condition} and {control.condition}"
    if treated.questions != control.questions:
        raise UserError.one(
            "states.questions_differ", place, "the questions differ", "use the same questions in both conditions"
        )
    same_size = treated.h_PQLD.shape[3] == control.h_PQLD.shape[3] and treated.seeds == control.seeds
    if treated.layers != control.layers or not same_size:
        raise UserError.one(
            "states.sizes_differ",
            place,
            "layers, hidden size or seeds differ",
            "record the states of both with the same study",
        )
