"""Checks of the decision: its conditions exist, their states are stored, and both outcomes are possible."""

from __future__ import annotations

from collections.abc import Iterator

from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy


def decision_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Unknown or equal conditions, a position that is not stored, thresholds that overlap."""
    decision = loaded.study.decision
    for role in ("treated", "control", "benign"):
        name = getattr(decision, role)
        if name is not None:
            yield from _unknown_condition(loaded, ("decision", role), name)
    if decision.control == decision.treated:
        where = ("decision", "control")
        yield loaded.bad_value("decision.same_condition", where, decision.control, "is also the treated condition")
    elif decision.benign in (decision.treated, decision.control):
        other = "treated" if decision.benign == decision.treated else "control"
        where = ("decision", "benign")
        yield loaded.bad_value("decision.same_condition", where, decision.benign, f"is also the {other} condition")
    yield from _known_answers(loaded)
    yield from _geometric_leg(loaded)
    yield from _kill(loaded)


def _unknown_condition(loaded: LoadedStudy, where: FieldPath, name: str) -> Iterator[Problem]:
    conditions = loaded.study.conditions
    if name not in conditions:
        remedy = did_you_mean(name, conditions)
        yield loaded.bad_value("conditions.unknown", where, name, "no such condition", remedy)


def _known_answers(loaded: LoadedStudy) -> Iterator[Problem]:
    """A contrast needs two different existing conditions and an expectation, and may be given once."""
    contrasts: set[tuple[str, str]] = set()
    for index, known in enumerate(loaded.study.decision.known_answers):
        where: FieldPath = ("decision", "known_answers", index)
        contrast = (known.treated, known.control)
        yield from _unknown_condition(loaded, (*where, "treated"), known.treated)
        yield from _unknown_condition(loaded, (*where, "control"), known.control)
        if known.treated == known.control:
            message = f"{dotted(where)}: compares {known.treated} with itself"
            yield loaded.problem("decision.same_condition", where, message)
        if contrast in contrasts:
            message = f"{dotted(where)}: {known.treated} - {known.control} is given twice"
            yield loaded.problem("decision.duplicate_contrast", where, message)
        contrasts.add(contrast)
        if known.geometry is None and known.leakage is None:
            yield loaded.problem(
                "decision.no_expectation",
                where,
                f"{dotted(where)}: expects nothing",
                "give `geometry`, `leakage` or both: found or not_found (for leakage also not_separable)",
            )


def _geometric_leg(loaded: LoadedStudy) -> Iterator[Problem]:
    leg, stored = loaded.study.decision.geometry, loaded.study.geometry.positions
    where: FieldPath = ("decision", "geometry")
    if leg.position not in stored:
        yield loaded.bad_value(
            "decision.position_not_stored",
            (*where, "position"),
            leg.position,
            "not among geometry.positions",
            "add it there: only those positions are stored",
        )
    if leg.responses == "fixed" and not loaded.study.panel.references and loaded.study.coupling is not None:
        yield loaded.bad_value(
            "decision.no_reference",
            (*where, "responses"),
            leg.responses,
            "the fixed responses are those of the first reference persona",
            "name one in panel.references",
        )
    if not 0.0 < leg.level < 1.0:
        yield loaded.bad_value("decision.level", (*where, "level"), leg.level, "must lie strictly between 0 and 1")


def _kill(loaded: LoadedStudy) -> Iterator[Problem]:
    """No result may both pass and kill a leg. The equivalence test needs a margin above 0."""
    decision, kill = loaded.study.decision, loaded.study.decision.kill
    where: FieldPath = ("decision", "kill")
    if kill.leakage <= 0:
        yield loaded.bad_value(
            "decision.kill_margin",
            (*where, "leakage"),
            kill.leakage,
            "must be above 0",
            "it is also the margin within which leakage counts as equal",
        )
    thresholds = (
        ("geometry", kill.geometry, "decision.geometry.threshold", decision.geometry.threshold),
        ("leakage", kill.leakage, "decision.behaviour.margin", decision.behaviour.margin),
    )
    for name, kill_value, passing_field, passing_value in thresholds:
        if kill_value >= passing_value:
            message = f"must be below {passing_field} = {passing_value:g}"
            yield loaded.bad_value("decision.kill_overlap", (*where, name), kill_value, message)
