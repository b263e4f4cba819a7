"""Gram matrices of pairs of conditions: all that a geometric contrast reads. They can be stored in a file."""

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
from flatprobe.statistics.geometry.massive import TRIMMED_DIMENSIONS, top_dimensions
from flatprobe.statistics.geometry.products import PersonaKernels
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
    def kernels(self) -> PersonaKernels:
        """The Gram matrices, packed for quadratic forms."""
        return PersonaKernels(Kernels.of_gram(self.gram_LPQPQ))


@dataclass(frozen=True, eq=False)
class PairGrams:
    """Inner products of two conditions' states on the same personas, questions and layers.

    A sub-block holds fewer personas or questions. The move of a state is the treated minus the control state. Its
    products are computed from the move itself and not as a difference of two products, so that states that did not move
    give differences of exactly 0. The optional parts are None unless a measure reads them.
    """

    treated: ConditionGrams
    control: ConditionGrams
    onto_move_LPQPQ: Array | None
    """Every control state with every move."""
    trimmed_treated_LPQPQ: Array | None
    """The treated states without the control's `TRIMMED_DIMENSIONS` largest dimensions of each layer."""
    trimmed_control_LPQPQ: Array | None
    """The control states without the same dimensions."""

    @cached_property
    def onto_move(self) -> Kernels | None:
        """Kernels of control states with moves, (L, P, P)."""
        return None if self.onto_move_LPQPQ is None else Kernels.of_gram(self.onto_move_LPQPQ)

    @cached_property
    def trimmed(self) -> tuple[PersonaKernels, PersonaKernels] | None:
        """The trimmed treated and control states, packed."""
        if self.trimmed_treated_LPQPQ is None or self.trimmed_control_LPQPQ is None:
            return None
        return (
            PersonaKernels(Kernels.of_gram(self.trimmed_treated_LPQPQ)),
            PersonaKernels(Kernels.of_gram(self.trimmed_control_LPQPQ)),
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file with the names as its metadata; parts that are None are left out."""
        names = {
            "personas": json.dumps(self.control.personas),
            "questions": json.dumps(self.control.questions),
            "layers": json.dumps(self.control.layers),
        }
        conditions = {"treated": self.treated.condition, "control": self.control.condition}
        tensors = {"treated": self.treated.gram_LPQPQ, "control": self.control.gram_LPQPQ}
        for name, key in _PART_KEYS.items():
            if (gram := getattr(self, name)) is not None:
                tensors[key] = gram
        save_file(tensors, path, metadata={**names, **conditions})

    @classmethod
    def load(cls, path: Path) -> PairGrams:
        """Read a file of `save`; UserError for any other file."""
        refusal = UserError.one("grams.file", str(path), "not a file of Gram matrices", "write it with PairGrams.save")
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.metadata() or {}
                keys = set(file.keys())
                if not {"treated", "control"} <= keys <= {"treated", "control", *_PART_KEYS.values()}:
                    raise refusal
                if not {"treated", "control", *_NAMES} <= set(names):
                    raise refusal
                tensors = {key: file.get_tensor(key) for key in keys}
        except SafetensorError as error:
            raise refusal from error
        personas, questions, layers = (tuple(json.loads(names[key])) for key in _NAMES)
        treated, control = (
            ConditionGrams(names[role], personas, questions, layers, tensors[role]) for role in ("treated", "control")
        )
        return cls(treated, control, **{name: tensors.get(key) for name, key in _PART_KEYS.items()})


_NAMES = ("personas", "questions", "layers")
_PART_KEYS = {
    "onto_move_LPQPQ": "control_onto_move",
    "trimmed_treated_LPQPQ": "trimmed_treated",
    "trimmed_control_LPQPQ": "trimmed_control",
}
Part = Literal["moves", "trimmed"]
PARTS: tuple[Part, ...] = ("moves", "trimmed")
"""Optional parts of a pair, each read by a few measures."""


def pair_grams(
    states: Mapping[str, States],
    pairs: Sequence[tuple[str, str]],
    source: str,
    bystanders: Sequence[str],
    parts: Collection[Part] = PARTS,
) -> list[PairGrams]:
    """Gram matrices of every (treated, control) pair of condition names; each condition's are computed once.

    Parts that are not in `parts` stay None, which saves most of the work. Holds one layer of all conditions in double
    precision at a time. Raises UserError for a condition or persona without states, and for conditions with different
    questions, layers or hidden sizes.
    """
    names = _checked(states, pairs, source, bystanders)
    reference, personas = states[names[0]], (source, *bystanders)
    grams: dict[str, list[Array]] = {name: [] for name in names}
    moves: dict[tuple[str, str], list[Array]] = {pair: [] for pair in pairs}
    trimmed: dict[tuple[str, str], list[tuple[Array, Array]]] = {pair: [] for pair in pairs}
    for layer in reference.layers:
        h_PQD = {name: states[name].layer(layer, personas) for name in names}
        for name in names:
            grams[name].append(persona_gram(h_PQD[name]))
        for treated, control in pairs:
            if "moves" in parts:
                onto_move = cross_gram(h_PQD[control], h_PQD[treated] - h_PQD[control])
                moves[treated, control].append(onto_move)
            if "trimmed" in parts:
                top = top_dimensions(h_PQD[control], reference.seeds, TRIMMED_DIMENSIONS)
                left, right = (_trimmed(grams[name][-1], h_PQD[name], top) for name in (treated, control))
                trimmed[treated, control].append((left, right))
    conditions = {
        name: ConditionGrams(
            states[name].condition, personas, reference.questions, reference.layers, np.stack(grams[name])
        )
        for name in names
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
    """One matrix per layer as one array; None for a part that was not requested."""
    return np.stack(grams) if grams else None


def _checked(
    states: Mapping[str, States], pairs: Sequence[tuple[str, str]], source: str, bystanders: Sequence[str]
) -> list[str]:
    """The conditions of the pairs, each once."""
    names = list(dict.fromkeys(condition for pair in pairs for condition in pair))
    absent = [condition for condition in names if condition not in states]
    if absent or not pairs:
        raise UserError.one(
            "states.condition_missing", "states", f"no states of {', '.join(absent) or 'any pair'}", "probe them first"
        )
    for name in names:
        check_comparable(states[names[0]], states[name])
        check_personas(states[name], source, bystanders)
    return names


def _trimmed(gram_PQPQ: Array, h_PQD: Array, top: NDArray[np.intp]) -> Array:
    """The Gram matrix without some hidden dimensions: their products are subtracted."""
    if len(top) == h_PQD.shape[2]:
        return np.zeros_like(gram_PQPQ)  # no dimension is left: exactly 0, not a rounding error
    trimmed: Array = gram_PQPQ - persona_gram(h_PQD[:, :, top])
    return trimmed
