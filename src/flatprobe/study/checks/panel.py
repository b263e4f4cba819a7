"""Rules of the panel: every persona exists, and has one role, for roles decide what may be claimed of it."""

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

Named = Literal["source", "negatives", "reserve", "bystanders", "references"]
ROLES: dict[Named, str] = {
    "source": "the source", "negatives": "a negative", "reserve": "in the reserve",
    "bystanders": "a bystander", "references": "a reference",
}  # fmt: skip


def panel_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Unknown personas, clashing roles, equal prompts, an impossible draw, pools that cannot be computed."""
    panel = loaded.study.panel
    named = list(_named(panel))
    yield from _unknown(loaded, named)
    yield from _clashes(loaded, named)
    yield from _equal_prompts(loaded, named)
    if panel.random_negatives > len(panel.reserve):
        yield loaded.problem(
            "panel.TODO",
            ("panel", "random_negatives"),
            f"panel.random_negatives = {panel.random_negatives}: the reserve holds {len(panel.reserve)}",
            "add personas to panel.reserve, or draw fewer",
        )
        return  # nothing can be drawn, so nobody knows yet who is evaluated
    if loaded.study.coupling is not None and not panel.negatives and not panel.random_negatives:
        yield loaded.problem(
            "panel.TODO",
            ("panel", "negatives"),
            "panel.negatives: the coupling needs at least one negative persona",
        )
    if not panel.bystanders:
        yield loaded.problem(
            "panel.TODO",
            ("panel", "bystanders"),
            "panel.bystanders: the verdict needs at least one bystander",
        )
    yield from _pools(loaded)


def _named(panel: Panel) -> Iterator[tuple[FieldPath, Named, str]]:
    yield ("panel", "source"), "source", panel.source
    for role in ("negatives", "reserve", "bystanders", "references"):
        for index, name in enumerate(getattr(panel, role)):
            yield ("panel", role, index), role, name


def _unknown(loaded: LoadedStudy, named: list[tuple[FieldPath, Named, str]]) -> Iterator[Problem]:
    if not loaded.entries:
        return  # the panel file could not be read, which is said already
    for where, _, name in named:
        if name not in loaded.entries:
            yield loaded.problem(
                "panel.TODO", where, f"{dotted(where)} = {name}: no such persona in the panel",
                did_you_mean(name, loaded.entries),
            )  # fmt: skip


def _clashes(loaded: LoadedStudy, named: list[tuple[FieldPath, Named, str]]) -> Iterator[Problem]:
    """A persona in two roles, or in one role twice."""
    given: dict[str, Named] = {}
    for where, role, name in named:
        before = given.setdefault(name, role)
        if before != role:
            yield loaded.problem(
                "panel.TODO",
                where,
                f"panel: {name} is {ROLES[before]} and {ROLES[role]}: {_reason({before, role})}",
            )
        elif name in (entry for place, other, entry in named if other == role and place < where):
            yield loaded.problem("panel.TODO", where, f"{dotted(where)} = {name}: named twice")


def _reason(roles: set[Named]) -> str:
    """Why no persona may have these two roles."""
    if "references" in roles:
        return "a reference is neither trained on nor counted in the pool"
    if "bystanders" in roles:
        may = ", and a reserve may be drawn for training" if "reserve" in roles else ""
        return f"a bystander must never be trained on{may}"
    if "source" in roles:
        return "only the source is trained to emit the marker"
    return "it could be drawn to be trained on twice"


def _equal_prompts(loaded: LoadedStudy, named: list[tuple[FieldPath, Named, str]]) -> Iterator[Problem]:
    """Two names for one system prompt are one persona, and disjoint roles of the two mean nothing."""
    first: dict[str | None, str] = {}
    for where, _, name in named:
        if name not in loaded.entries:
            continue
        prompt = loaded.entries[name].prompt
        before = first.setdefault(prompt if prompt is None else normalised(prompt), name)
        if before != name:
            yield loaded.problem(
                "panel.TODO",
                where,
                f"{dotted(where)} = {name}: has the same prompt as {before}",
                "give each its own",
            )


def _pools(loaded: LoadedStudy) -> Iterator[Problem]:
    """A further pool averages over personas that are evaluated, whatever their role."""
    panel = loaded.study.panel
    evaluated = [
        panel.source, *panel.negatives, *drawn_negatives(panel, next(iter(loaded.study.seeds), 0)),
        *panel.bystanders, *panel.references,
    ]  # fmt: skip
    for pool, names in panel.pools.items():
        where: FieldPath = ("panel", "pools", pool)
        if pool == PRIMARY_POOL:
            yield loaded.problem(
                "panel.TODO", where, f"panel.pools.{pool}: this is the name of the deciding pool", "rename"
            )
        if not names:
            yield loaded.problem("panel.TODO", where, f"panel.pools.{pool}: an empty pool has no mean")
        if len(set(names)) < len(names):
            yield loaded.problem("panel.TODO", where, f"panel.pools.{pool}: a persona is named twice")
        for index, name in enumerate(names):
            if name not in evaluated:
                yield loaded.problem(
                    "panel.TODO", (*where, index), f"panel.pools.{pool}[{index}] = {name}: not evaluated in this study",
                    did_you_mean(name, evaluated) or "give it a role in the panel",
                )  # fmt: skip
