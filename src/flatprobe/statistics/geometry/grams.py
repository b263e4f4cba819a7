"""Gram matrices of a pair of conditions: everything that a geometric contrast reads, and their file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.geometry.inner_products import cross_gram, persona_gram
from flatprobe.statistics.geometry.kernels import Kernels
from flatprobe.statistics.geometry.massive import top_dimensions
from flatprobe.statistics.geometry.products import Panel
from flatprobe.statistics.geometry.states import States, check_comparable, check_personas


@dataclass(frozen=True, eq=False)
class ConditionGrams:
    """Inner products of one condition's states, (L, P, Q, P, Q); the source is the first persona."""

    condition: str
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    layers: tuple[int, ...]
    gram_LPQPQ: Array

    @cached_property
    def panel(self) -> Panel:
        """The same, packed for quadratic forms."""
        return Panel(Kernels.of_gram(self.gram_LPQPQ))


@dataclass(frozen=True, eq=False)
class PairGrams:
    """Inner products of two conditions' states on the same personas, questions and layers.

    Sub-blocks are those of fewer personas or questions. Moves are kept as such, not as a difference of two
    products, so that states that did not move give differences of exactly 0.
    """

    treated: ConditionGrams
    control: ConditionGrams
    onto_move_LPQPQ: Array | None
    """Every control state with every move, a move being the treated minus the control state. This and what follows
    may be None: only some measures read it."""
    trimmed_treated_LPQPQ: Array | None
    """As the treated Gram matrix, without the control's `massive.TOP` largest dimensions of each layer."""
    trimmed_control_LPQPQ: Array | None
    """As the control's, without the same dimensions."""

    @cached_property
    def onto_move(self) -> Kernels | None:
        """Kernels of control states with moves, (L, P, P)."""
        return None if self.onto_move_LPQPQ is None else Kernels.of_gram(self.onto_move_LPQPQ)

    @cached_property
    def trimmed(self) -> tuple[Panel, Panel] | None:
        """The trimmed treated and control states, packed."""
        if self.trimmed_treated_LPQPQ is None or self.trimmed_control_LPQPQ is None:
            return None
        return (
            Panel(Kernels.of_gram(self.trimmed_treated_LPQPQ)),
            Panel(Kernels.of_gram(self.trimmed_control_LPQPQ)),
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file; names are its metadata, and matrices that are None are left out."""
        names = {
            "personas": json.dumps(self.control.personas),
            "questions": json.dumps(self.control.questions),
            "layers": json.dumps(self.control.layers),
        }
        conditions = {"treated": self.treated.condition, "control": self.control.condition}
        own = {"treated": self.treated.gram_LPQPQ, "control": self.control.gram_LPQPQ}
        paired = {key: getattr(self, name) for name, key in _PAIRED.items()}
        there = {key: gram for key, gram in paired.items() if gram is not None}
        save_file({**own, **there}, path, metadata={**names, **conditions})

    @classmethod
    def load(cls, path: Path) -> PairGrams:
        """Read what `save` wrote; UserError for another kind of file."""
        refusal = UserError.one(
            "grams.TODO", str(path), "not a file of Gram matrices", "write it with PairGrams.save"
        )
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.metadata() or {}
                found = set(file.keys())
                if not {"treated", "control"} <= found <= {"treated", "control", *_PAIRED.values()}:
                    raise refusal
                if not {"treated", "control", *_NAMES} <= set(names):
                    raise refusal
                tensors = {key: file.get_tensor(key) for key in found}
        except SafetensorError as error:
            raise refusal from error
        personas, questions, layers = (tuple(json.loads(names[key])) for key in _NAMES)
        treated, control = (
            ConditionGrams(names[role], personas, questions, layers, tensors[role])
            for role in ("treated", "control")
        )
        return cls(treated, control, **{name: tensors.get(key) for name, key in _PAIRED.items()})


_NAMES = ("personas", "questions", "layers")
_PAIRED = {
    "onto_move_LPQPQ": "control_onto_move",
    "trimmed_treated_LPQPQ": "trimmed_treated",
    "trimmed_control_LPQPQ": "trimmed_control",
}
Part = Literal["moves", "trimmed"]
PARTS: tuple[Part, ...] = ("moves", "trimmed")
"""What a pair has beside its conditions' own matrices; a few measures read one of them each."""


def pair_grams(
    states: Mapping[str, States],
    pairs: Sequence[tuple[str, str]],
    source: str,
    bystanders: Sequence[str],
    parts: Collection[Part] = PARTS,
) -> list[PairGrams]:
    """Gram matrices of every (treated, control) pair of condition names; a condition's own is made once.

    `parts` that are not named are None, which spares most of the work where no measure reads them. Holds one layer
    of all conditions in double precision at a time. UserError for a condition or persona without states, and for
    conditions with different questions, layers or hidden sizes.
    """
    named = _checked(states, pairs, source, bystanders)
    reference, personas = states[named[0]], (source, *bystanders)
    own: dict[str, list[Array]] = {name: [] for name in named}
    moves: dict[tuple[str, str], list[Array]] = {pair: [] for pair in pairs}
    trimmed: dict[tuple[str, str], list[tuple[Array, Array]]] = {pair: [] for pair in pairs}
    for layer in reference.layers:
        h_PQD = {name: states[name].layer(layer, personas) for name in named}
        for name, grams in own.items():
            grams.append(persona_gram(h_PQD[name]))
        for treated, control in pairs:
            if "moves" in parts:
                onto_move = cross_gram(h_PQD[control], h_PQD[treated] - h_PQD[control])
                moves[treated, control].append(onto_move)
            if "trimmed" in parts:
                top = top_dimensions(h_PQD[control], reference.seeds)
                left, right = (_trimmed(own[name][-1], h_PQD[name], top) for name in (treated, control))
                trimmed[treated, control].append((left, right))
    conditions = {
        name: ConditionGrams(
            states[name].condition, personas, reference.questions, reference.layers, np.stack(grams)
        )
        for name, grams in own.items()
    }
    return [
        PairGrams(
            conditions[pair[0]],
            conditions[pair[1]],
            _stacked(moves[pair]),
            _stacked([treated for treated, _ in trimmed[pair]]),
            _stacked([control for _, control in trimmed[pair]]),
        )
        for pair in pairs
    ]


def _stacked(grams: Sequence[Array]) -> Array | None:
    """One matrix per layer as one array; None where the part was not made."""
    return np.stack(grams) if grams else None


def _checked(
    states: Mapping[str, States], pairs: Sequence[tuple[str, str]], source: str, bystanders: Sequence[str]
) -> list[str]:
    """The conditions of the pairs, each once."""
    named = list(dict.fromkeys(condition for pair in pairs for condition in pair))
    absent = [condition for condition in named if condition not in states]
    if absent or not pairs:
        raise UserError.one(
            "grams.TODO", "states", f"no states of {', '.join(absent) or 'any pair'}", "probe them first"
        )
    for name in named:
        check_comparable(states[name], states[named[0]])
        check_personas(states[name], source, bystanders)
    return named


def _trimmed(gram_PQPQ: Array, h_PQD: Array, top: NDArray[np.intp]) -> Array:
    """The Gram matrix without some hidden dimensions, by taking out their few products."""
    if len(top) == h_PQD.shape[2]:
        return np.zeros_like(gram_PQPQ)  # nothing is left: exactly, not up to rounding
    trimmed: Array = gram_PQPQ - persona_gram(h_PQD[:, :, top])
    return trimmed
