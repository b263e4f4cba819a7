"""A stage: the description of one computation. Its key hashes everything that can change the result."""

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
_LONGEST_NAME = 150  # name and key become a folder's name; file systems allow 255 bytes


class Settings(BaseModel):
    """Base class of a stage function's settings, which are hashed into the stage's key.

    NaN and infinities are refused, because JSON has no value for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Resources:
    """What a stage needs from the machine; never part of its key."""

    kind: Literal["cpu", "gpu"] = "cpu"
    process: Literal["warm", "fresh"] = "warm"
    """`warm`: a worker that also runs other stages, so that heavy packages are imported once. `fresh`: a process that
    ends with the stage and so frees all its memory, as GPU engines need."""
    affinity: str | None = None
    """Role of an input that a worker may keep in memory: a later stage that reads the same artifact in this role
    prefers that worker."""


CPU = Resources()


@dataclass(frozen=True, eq=False)
class Stage:
    """What to compute; the runner decides how (cache, devices, processes).

    Two stages with equal keys are the same computation. Inputs are set at construction, so stages cannot form a cycle.

    Raises:
        ValueError: the name or the function is malformed.
    """

    name: str
    """For people, never hashed: `couple/em_first/lambda-1/seed-42`."""
    function: str
    """Import string `module:function` of a `def f(settings: …, inputs: Mapping[str, Path], output: Path)`."""
    settings: Settings
    inputs: Mapping[str, Stage] = field(default_factory=dict, repr=False)
    """Role of the input in the function → the stage that computes it."""
    version: int = 1
    """Raised when the function gives another result, so that older artifacts are not reused."""
    resources: Resources = CPU
    kind: str = ""
    """Stable word for what the function computes. The key hashes it instead of the import string, so that the function
    can move to another file. Empty: the import string."""
    former_kind: str | None = None
    """What keys of version 0.1.0 hashed instead of the kind; artifacts with such a key are reused."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST_NAME:
            raise ValueError(
                f"{self.name!r} is not a stage name: up to {_LONGEST_NAME} letters, digits and _.+=-"
                " in parts separated by /, no part starting with a dot"
            )
        if not _FUNCTION.fullmatch(self.function):
            raise ValueError(f"stage {self.name}: {self.function!r} is not of the form `package.module:function`")
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))
        object.__setattr__(self, "kind", self.kind or self.function)

    @cached_property
    def settings_json(self) -> str:
        """The settings as canonical JSON: hashed, recorded in the manifest, and validated by the worker.

        Raises:
            TypeError: the settings hold a set, whose order differs between processes.
            ValueError: the settings hold NaN or an infinity.
        """
        _refuse_ambiguous(self.settings.model_dump(serialize_as_any=True), self.name)
        # serialize_as_any: a subclass in a field annotated with its base class keeps its own fields.
        return canonical_json(self.settings.model_dump(mode="json", serialize_as_any=True))

    @cached_property
    def key(self) -> str:
        """SHA-256 (64 hexadecimal digits) of kind, version, settings and the keys of the inputs."""
        return self._digest("kind", self.kind, {role: stage.key for role, stage in self.inputs.items()})

    @cached_property
    def former_key(self) -> str | None:
        """The key that version 0.1.0 gave this computation; None if it did not have it."""
        inputs = {role: stage.former_key for role, stage in self.inputs.items()}
        if self.former_kind is None or None in inputs.values():
            return None
        return self._digest("function", self.former_kind, inputs)

    def _digest(self, field_name: str, kind: str, inputs: Mapping[str, str | None]) -> str:
        content = {
            field_name: kind,
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
    """JSON with sorted keys, no spaces, ASCII only. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def walk(targets: Iterable[Stage]) -> Iterator[Stage]:
    """The targets and all their inputs, recursively: each object once, inputs before their users."""
    seen: set[int] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if id(stage) in seen:
            return
        seen.add(id(stage))
        for upstream in stage.inputs.values():
            yield from visit(upstream)
        yield stage

    for target in targets:
        yield from visit(target)


def topological_order(targets: Iterable[Stage]) -> list[Stage]:
    """One stage per key, inputs before their users. If one computation has several names, the first is used.

    Raises:
        ValueError: two computations have the same name.
    """
    by_key: dict[str, Stage] = {}
    key_of: dict[str, str] = {}
    for stage in walk(targets):
        if key_of.setdefault(stage.name, stage.key) != stage.key:
            raise ValueError(f"two different stages are called {stage.name!r}")
        by_key.setdefault(stage.key, stage)
    return list(by_key.values())


def _refuse_ambiguous(value: object, stage: str) -> None:
    """Raise for values with no unique JSON: sets (any order), NaN and infinities (null)."""
    if isinstance(value, set | frozenset):
        raise TypeError(f"stage {stage}: the settings hold a set, which has no order; use a sorted tuple")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"stage {stage}: the settings hold {value}, which JSON cannot represent")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_ambiguous(item, stage)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_ambiguous(item, stage)
