"""What to compute: a stage is data, and its key says everything that can change its result."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*(/[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*)*")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_LONGEST_NAME = 150  # it becomes the name of a folder, with a key, under the 255 bytes of common file systems


class Settings(BaseModel):
    """Base of everything that a stage function may be told; hashed into the key of its stage.

    Not-a-number and infinities are refused, because JSON has no word for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Resources:
    """How a stage wants to be run; never part of its key."""

    kind: Literal["cpu", "gpu"] = "cpu"
    process: Literal["warm", "fresh"] = "warm"
    """`warm` shares one worker, so that heavy packages are imported once; `fresh` gets a process that ends
    with the stage and so gives back all it held, as GPU engines need."""


CPU = Resources()


@dataclass(frozen=True, eq=False)
class Stage:
    """What to compute. How (cache, devices, processes) belongs to the runner.

    Two stages with equal keys are the same computation. Raises ValueError for a name or a function that
    cannot be one. As inputs are given at construction and never change, stages cannot form a cycle.
    """

    name: str
    """For people, never hashed: `couple/em_first/lambda-1/seed-42`."""
    function: str
    """Import string `module:function` of a `def f(settings: …, inputs: Mapping[str, Path], output: Path)`."""
    settings: Settings
    inputs: Mapping[str, Stage] = field(default_factory=dict, repr=False)
    """Role of the input in the function → the stage that makes it."""
    version: int = 1
    """Bumped when the function's meaning changes, so that older artifacts are not taken for its result."""
    resources: Resources = CPU
    kind: str = ""
    """What the function computes, as one stable word: hashed, so that the function may move to another file. Left
    empty, it is the import string."""
    former_kind: str | None = None
    """What older keys hashed in place of the kind; artifacts under such a key are reused."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST_NAME:
            raise ValueError(
                f"{self.name!r} is no name of a stage: up to {_LONGEST_NAME} letters, digits and _.+=-"
                " in parts separated by /, no part starting with a dot"
            )
        if not _FUNCTION.fullmatch(self.function):
            raise ValueError(
                f"stage {self.name}: {self.function!r} is not of the form `package.module:function`"
            )
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))
        object.__setattr__(self, "kind", self.kind or self.function)

    @cached_property
    def settings_json(self) -> str:
        """The settings as canonical JSON: what is hashed, what is recorded, and what the worker validates.

        Raises TypeError for a set, whose order differs between processes, and ValueError for not-a-number.
        """
        _refuse_ambiguous(self.settings.model_dump(serialize_as_any=True), self.name)
        # Duck typing, as a subclass in a field annotated with its base would otherwise lose its own fields.
        return canonical_json(self.settings.model_dump(mode="json", serialize_as_any=True))

    @cached_property
    def key(self) -> str:
        """SHA-256 (64 hexadecimal digits) of kind, version, settings and the keys of the inputs."""
        return self._digest("kind", self.kind, {role: stage.key for role, stage in self.inputs.items()})

    @cached_property
    def former_key(self) -> str | None:
        """The key of the same computation before kinds had names; None where it had none."""
        inputs = {role: stage.former_key for role, stage in self.inputs.items()}
        if self.former_kind is None or None in inputs.values():
            return None
        return self._digest("function", self.former_kind, inputs)

    def _digest(self, label: str, what: str, inputs: Mapping[str, str | None]) -> str:
        content = {
            label: what,
            "version": self.version,
            "settings": json.loads(self.settings_json),
            "inputs": inputs,
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """The name with `/` replaced, for folders and logs."""
        return self.name.replace("/", "__")


def canonical_json(value: Any) -> str:
    """One text per value: keys sorted, no spaces, ASCII. ValueError for not-a-number and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def walk(targets: Iterable[Stage]) -> Iterator[Stage]:
    """The targets and all they need, each object once, inputs before what uses them."""
    seen: set[int] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if id(stage) in seen:
            return
        seen.add(id(stage))
        for needed in stage.inputs.values():
            yield from visit(needed)
        yield stage

    for target in targets:
        yield from visit(target)


def topological_order(targets: Iterable[Stage]) -> list[Stage]:
    """One stage per key, inputs before what uses them; of several names for one computation the first wins.

    Raises ValueError where one name stands for two computations, for people could not tell them apart.
    """
    by_key: dict[str, Stage] = {}
    key_of: dict[str, str] = {}
    for stage in walk(targets):
        if key_of.setdefault(stage.name, stage.key) != stage.key:
            raise ValueError(f"two different stages are called {stage.name!r}")
        by_key.setdefault(stage.key, stage)
    return list(by_key.values())


def _refuse_ambiguous(value: object, stage: str) -> None:
    """Raise for what JSON would write in any order (sets) or as null (not-a-number, infinities)."""
    if isinstance(value, set | frozenset):
        raise TypeError(f"stage {stage}: the settings hold a set, which has no order; use a sorted tuple")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"stage {stage}: the settings hold {value}, for which JSON has no word")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_ambiguous(item, stage)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_ambiguous(item, stage)
