"""Checks of the panel: every persona exists and has exactly one role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import PRIMARY_POOL, drawn_negatives
from flatprobe.study.questions import normalised
from flatprobe.study.schema import Panel

RoleField = Literal["source", "negatives", "reserve", "bystanders", "references"]
NamedPersona = tuple[FieldPath, RoleField, str]
ROLES: dict[RoleField, str] = {
    "source": "the source",
    "negatives": "a negative",
    "reserve": "in the reserve",
    "bystanders": "a bystander",
    "references": "a reference",
}


def panel_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Unknown personas, role clashes, equal prompts, too small a reserve, pools that cannot be computed."""
    panel = loaded.study.panel
    named = list(_named_personas(panel))
    yield from _unknown(loaded, named)
    yield from _role_clashes(loaded, named)
    yield from _equal_prompts(loaded, named)
    if panel.random_negatives > len(panel.reserve):
        yield loaded.bad_value(
            "panel.reserve_too_small",
            ("panel", "random_negatives"),
            panel.random_negatives,
            f"the reserve holds {len(panel.reserve)}",
            "add personas to panel.reserve, or draw fewer",
        )
        return  # nothing can be drawn, so the evaluated personas are unknown
    if loaded.study.coupling is not None and not panel.negatives and not panel.random_negatives:
        yield loaded.problem(
            "panel.no_negative",
            ("panel", "negatives"),
            "panel.negatives: the coupling needs at least one negative persona",
        )
    if not panel.bystanders:
        yield loaded.problem(
            "panel.no_bystander", ("panel", "bystanders"), "panel.bystanders: the verdict needs at least one bystander"
        )
    yield from _pools(loaded)


def _named_personas(panel: Panel) -> Iterator[NamedPersona]:
    yield ("panel", "source"), "source", panel.source
    for role in ("negatives", "reserve", "bystanders", "references"):
        for index, name in enumerate(getattr(panel, role)):
            yield ("panel", role, index), role, name


def _unknown(loaded: LoadedStudy, named: list[NamedPersona]) -> Iterator[Problem]:
    if not loaded.entries:
        return  # the panel file could not be read; that problem is already reported
    for where, _, name in named:
        if name not in loaded.entries:
            remedy = did_you_mean(name, loaded.entries)
            yield loaded.bad_value("panel.unknown_persona", where, name, "no such persona in the panel", remedy)


def _role_clashes(loaded: LoadedStudy, named: list[NamedPersona]) -> Iterator[Problem]:
    """Personas in two roles, or twice in one role."""
    first_role: dict[str, RoleField] = {}
    for where, role, name in named:
        first = first_role.setdefault(name, role)
        if first != role:
            message = f"panel: {name} is {ROLES[first]} and {ROLES[role]}: {_clash_reason({first, role})}"
            yield loaded.problem("panel.role_clash", where, message)
        elif name in (entry for place, other, entry in named if other == role and place < where):
            yield loaded.bad_value("panel.duplicate_persona", where, name, "given twice")


def _clash_reason(roles: set[RoleField]) -> str:
    """Why no persona may have these two roles."""
    if "references" in roles:
        return "a reference is neither trained on nor part of the pool"
    if "bystanders" in roles:
        drawn = ", and a reserve persona may be drawn for training" if "reserve" in roles else ""
        return f"a bystander must never be trained on{drawn}"
    if "source" in roles:
        return "only the source is trained to emit the marker"
    return "it could be drawn and then trained on twice"


def _equal_prompts(loaded: LoadedStudy, named: list[NamedPersona]) -> Iterator[Problem]:
    """Two names with the same system prompt are one persona, so they cannot have two roles."""
    first_name: dict[str | None, str] = {}
    for where, _, name in named:
        if name not in loaded.entries:
            continue
        prompt = loaded.entries[name].prompt
        first = first_name.setdefault(prompt if prompt is None else normalised(prompt), name)
        if first != name:
            yield loaded.bad_value(
                "panel.equal_prompts", where, name, f"has the same prompt as {first}", "give each its own prompt"
            )


def _pools(loaded: LoadedStudy) -> Iterator[Problem]:
    """A further pool is a mean over evaluated personas, whatever their role."""
    panel = loaded.study.panel
    seed = next(iter(loaded.study.seeds), 0)
    negatives = (*panel.negatives, *drawn_negatives(panel, seed))
    evaluated = [panel.source, *negatives, *panel.bystanders, *panel.references]
    for pool, names in panel.pools.items():
        where: FieldPath = ("panel", "pools", pool)
        if pool == PRIMARY_POOL:
            message = f"{dotted(where)}: this is the name of the deciding pool"
            yield loaded.problem("panel.pool_name", where, message, "give the pool another name")
        if not names:
            yield loaded.problem("panel.empty_pool", where, f"{dotted(where)}: an empty pool has no mean")
        if len(set(names)) < len(names):
            yield loaded.problem("panel.duplicate_persona", where, f"{dotted(where)}: a persona is given twice")
        for index, name in enumerate(names):
            if name not in evaluated:
                remedy = did_you_mean(name, evaluated) or "give it a role in the panel"
                yield loaded.bad_value(
                    "panel.not_evaluated", (*where, index), name, "not evaluated in this study", remedy
                )
