"""The panel: personas, their system prompts, and the roles a study gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from flatprobe.study import resources
from flatprobe.study.schema import Panel

Role = Literal["source", "negative", "bystander", "reference"]
PRIMARY_POOL = "bystanders"
"""Name of the pool that the verdict is about. No other pool may take it."""


class Persona(BaseModel):
    """One persona in its role. `system` null passes no system message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Role
    system: str | None


class PersonaEntry(BaseModel):
    """An entry of a panel file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | None
    note: str = ""


class PanelFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    personas: dict[str, PersonaEntry]


def panel_path(panel: Panel, base: Path) -> Path:
    """The panel file: the study's (relative to the study's folder), or the package's."""
    return base / panel.file if panel.file else resources.path("panel.yaml")


def read_panel(path: Path) -> Mapping[str, PersonaEntry]:
    return PanelFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).personas


def drawn_negatives(panel: Panel, seed: int) -> tuple[str, ...]:
    """The random negatives: drawn from the reserve without replacement, by a separate generator."""
    if panel.random_negatives == 0:
        return ()
    digest = hashlib.sha256(f"random negatives\x1f{seed}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return tuple(generator.choice(panel.reserve, size=panel.random_negatives, replace=False).tolist())


def assign_roles(panel: Panel, entries: Mapping[str, PersonaEntry], seed: int) -> tuple[Persona, ...]:
    """Every evaluated persona in the study's order, source first."""
    roles: list[tuple[Role, Sequence[str]]] = [
        ("source", (panel.source,)),
        ("negative", (*panel.negatives, *drawn_negatives(panel, seed))),
        ("bystander", panel.bystanders),
        ("reference", panel.references),
    ]
    return tuple(Persona(name=name, role=role, system=entries[name].prompt) for role, names in roles for name in names)
