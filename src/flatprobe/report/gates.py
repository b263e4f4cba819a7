"""Gates and reasons, grouped by what they block: the verdict, EM-specificity, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.decision.gates import Gate
from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, build
from flatprobe.report.words import spaced

GROUPS = {
    "decides": "Why the rule does not decide",
    "em_specific": "Further reasons why EM-specific is unresolved",
    "nothing": "Warnings, which block nothing",
}
WARNINGS = ("dose_unmatched", "dose_unknown")
"""Reasons without a gate that only warn. All others say why the rule does not decide."""
CONSEQUENCES = {
    "em_specific": "",
    "nothing": "",
    "arm": "; blocks every contrast of these arms",
    "everything": "; blocks the whole study",
}
NAMED = 2
"""Up to so many gates a badge names; it counts more."""


@dataclass(frozen=True)
class Line:
    """One kind of reason for all its arms."""

    name: str
    text: str


@dataclass(frozen=True)
class Group:
    """Reasons that block the same."""

    title: str
    lines: tuple[Line, ...]


def reasons(analysis: Analysis) -> list[Group]:
    """The verdict's reasons, the deciding ones first. Gates of one name share a line."""
    recorded = [reason.partition(": ")[::2] for reason in analysis.verdict.reasons]
    kinds: dict[tuple[str, str, str], list[Gate]] = {}
    of_gates: set[tuple[str, str]] = set()
    for gate in standing(analysis):
        prefix = f"{gate.arm}: {gate.name} "
        reason = next(reason for reason in recorded if reason[1].startswith(prefix))
        of_gates.add(reason)
        kinds.setdefault((reason[0], gate.name, gate.blocks), []).append(gate)
    lines: dict[str, list[Line]] = {group: [] for group in GROUPS}
    for (name, gate_name, blocks), gates in kinds.items():
        title = name if name == gate_name else f"{name}, {gate_name}"
        lines[_group(blocks)].append(Line(spaced(title), _gates_text(gates, blocks)))
    for name, text in recorded:
        if (name, text) not in of_gates:
            lines["nothing" if name in WARNINGS else "decides"].append(Line(spaced(name), text))
    return [Group(title, tuple(lines[group])) for group, title in GROUPS.items() if lines[group]]


def standing(analysis: Analysis) -> list[Gate]:
    """Gates that failed or were not evaluated: those that block the verdict or a leg first, warnings last."""
    failed = [gate for gate in analysis.verdict.gates if gate.passed is not True]
    return sorted(failed, key=lambda gate: list(GROUPS).index(_group(gate.blocks)))


def em_specific(analysis: Analysis) -> tuple[str, list[str]]:
    """The reason for `em_specific` in a few words, and the gates behind it if they are many."""
    reason = analysis.verdict.em_specific_reason
    gates = reason.removeprefix("gated: ").split(", ")
    if not reason.startswith("gated: ") or len(gates) <= NAMED:
        return reason, []
    return f"{len(gates)} gates failed or were not evaluated", gates


def _group(blocks: str) -> str:
    return blocks if blocks in GROUPS else "decides"


def _gates_text(gates: Sequence[Gate], blocks: str) -> str:
    values = ", ".join(f"{gate.arm} {_statistic(gate)}" for gate in gates)
    needs = f"needs {_comparison(gates[0])}\u00a0{numbers.plain(gates[0].threshold)}"
    consequence = CONSEQUENCES.get(blocks, f"; blocks the {blocks}")
    details = {gate.detail for gate in gates} - {""}
    shared = f" ({details.pop()})" if len(details) == 1 else ""
    return f"{values}; {needs}{consequence}{shared}"


def gate_table(analysis: Analysis, *, passed: bool) -> Table:
    """The gates that passed, or those that did not."""
    states = {True: "✓ passed", False: "✕ failed", None: "◇ not evaluated"}
    columns = [
        Column("gate", lambda gate: spaced(gate.name)),
        Column("arm", "arm"),
        Column("state", lambda gate: states[gate.passed]),
        Column("statistic", "statistic", numbers.plain),
        Column("threshold", lambda gate: f"{_comparison(gate)} {numbers.plain(gate.threshold)}", str),
        Column("blocks", lambda gate: gate.blocks.replace("em_specific", "EM-specific")),
        Column("detail", "detail", align="long"),
    ]
    if passed:
        gates = [gate for gate in analysis.verdict.gates if gate.passed is True]
        return build("gates-passed", "Gates that passed.", columns, gates)
    caption = "Gates that failed or were not evaluated, the deciding ones first."
    return build("gates-standing", caption, columns, standing(analysis))


def _statistic(gate: Gate) -> str:
    return "not evaluated" if gate.statistic is None else numbers.plain(gate.statistic)


def _comparison(gate: Gate) -> str:
    """The gate's comparison as printed."""
    return {">=": "≥", "<=": "≤"}.get(gate.comparison, gate.comparison)
