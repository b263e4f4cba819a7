"""Rules of the decision: it compares conditions that exist on states that are recorded, and can come out both ways."""

from __future__ import annotations

from collections.abc import Iterator

from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy


def decision_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Arms that do not exist or are one, a position that is not stored, thresholds that overlap."""
    decision = loaded.study.decision
    for arm in ("treated", "control", "benign"):
        name = getattr(decision, arm)
        if name is not None and name not in loaded.study.conditions:
            remedy = did_you_mean(name, loaded.study.conditions)
            yield loaded.problem(
                "decision.TODO", ("decision", arm), f"decision.{arm} = {name}: no such condition", remedy
            )
    if decision.control == decision.treated:
        yield loaded.problem(
            "decision.TODO",
            ("decision", "control"),
            f"decision.control = {decision.control}: is the treated condition too",
        )
    elif decision.benign in (decision.treated, decision.control):
        other = "treated" if decision.benign == decision.treated else "control"
        yield loaded.problem(
            "decision.TODO",
            ("decision", "benign"),
            f"decision.benign = {decision.benign}: is the {other} condition too",
        )
    yield from _known_answers(loaded)
    yield from _geometric_leg(loaded)
    yield from _kill(loaded)


def _known_answers(loaded: LoadedStudy) -> Iterator[Problem]:
    """Two conditions that exist, once, and something that is expected of them."""
    seen: set[tuple[str, str]] = set()
    for index, known in enumerate(loaded.study.decision.known_answers):
        where: FieldPath = ("decision", "known_answers", index)
        for arm in ("treated", "control"):
            name = getattr(known, arm)
            if name not in loaded.study.conditions:
                yield loaded.problem(
                    "decision.TODO", (*where, arm), f"{dotted((*where, arm))} = {name}: no such condition",
                    did_you_mean(name, loaded.study.conditions),
                )  # fmt: skip
        if known.treated == known.control:
            yield loaded.problem(
                "decision.TODO", where, f"{dotted(where)}: compares {known.treated} with itself"
            )
        if (known.treated, known.control) in seen:
            yield loaded.problem(
                "decision.TODO", where, f"{dotted(where)}: {known.treated} - {known.control} is given twice"
            )
        seen.add((known.treated, known.control))
        if known.geometry is None and known.leakage is None:
            yield loaded.problem(
                "decision.TODO", where, f"{dotted(where)}: expects nothing",
                "give `geometry`, `leakage` or both: found or not_found (of leakage not_separable, too)",
            )  # fmt: skip


def _geometric_leg(loaded: LoadedStudy) -> Iterator[Problem]:
    leg, stored = loaded.study.decision.geometry, loaded.study.geometry.positions
    if leg.position not in stored:
        yield loaded.problem(
            "decision.TODO",
            ("decision", "geometry", "position"),
            f"decision.geometry.position = {leg.position}: not among geometry.positions",
            "add it there, for only those are stored",
        )
    if leg.responses == "fixed" and not loaded.study.panel.references:
        yield loaded.problem(
            "decision.TODO",
            ("decision", "geometry", "responses"),
            "decision.geometry.responses = fixed: the fixed responses are those of the first reference persona",
            "name one in panel.references",
        )
    if not 0.0 < leg.level < 1.0:
        yield loaded.problem(
            "decision.TODO",
            ("decision", "geometry", "level"),
            f"decision.geometry.level = {leg.level:g}: must lie between 0 and 1",
        )


def _kill(loaded: LoadedStudy) -> Iterator[Problem]:
    """No result may pass a leg and kill it at once; the equivalence test needs a margin."""
    decision = loaded.study.decision
    if decision.kill.leakage <= 0:
        yield loaded.problem(
            "decision.TODO",
            ("decision", "kill", "leakage"),
            f"decision.kill.leakage = {decision.kill.leakage:g}: must be above 0",
            "it is the margin within which leakage counts as equal, too",
        )
    pairs = (
        ("geometry", decision.kill.geometry, "decision.geometry.threshold", decision.geometry.threshold),
        ("leakage", decision.kill.leakage, "decision.behaviour.margin", decision.behaviour.margin),
    )
    for name, kill, passing, value in pairs:
        if kill >= value:
            yield loaded.problem(
                "decision.TODO",
                ("decision", "kill", name),
                f"decision.kill.{name} = {kill:g}: must be below {passing} = {value:g}",
            )
