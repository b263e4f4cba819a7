"""Gates and reasons, sorted by what they do: what stops the verdict, what stops EM-specificity, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis

Gate = Mapping[str, Any]

GROUPS = {
    "decides": "What keeps the rule from deciding",
    "em_specific": "What keeps EM-specific unresolved, besides",
    "nothing": "Warnings, which decide nothing",
}
WARNINGS = ("dose_unmatched", "dose_unknown")
"""Reasons without a gate that only warn; all others say why the rule does not decide."""
CONSEQUENCES = {
    "em_specific": "",
    "nothing": "",
    "arm": "; blocks what these arms decide",
    "everything": "; blocks all",
}
SHOWN = 2
"""Gates that a badge still names; more are counted."""


@dataclass(frozen=True)
class Line:
    """One kind of reason, over all arms that it concerns."""

    name: str
    text: str


@dataclass(frozen=True)
class Group:
    """Reasons of one weight."""

    title: str
    lines: tuple[Line, ...]


def reasons(analysis: Analysis) -> list[Group]:
    """The verdict's reasons, the deciding ones first; gates of one name share a line."""
    recorded = [reason.partition(": ")[::2] for reason in analysis.verdict["reasons"]]
    kinds: dict[tuple[str, str, str], list[Gate]] = {}
    of_gates: set[tuple[str, str]] = set()
    for gate in standing(analysis):
        prefix = f"{gate['arm']}: {gate['name']} "
        reason = next(reason for reason in recorded if reason[1].startswith(prefix))
        of_gates.add(reason)
        kinds.setdefault((reason[0], gate["name"], gate["blocks"]), []).append(gate)
    lines: dict[str, list[Line]] = {group: [] for group in GROUPS}
    for (name, gate_name, blocks), gates in kinds.items():
        title = name if name == gate_name else f"{name}, {gate_name}"
        lines[_group(blocks)].append(Line(_words(title), _gates_text(gates, blocks)))
    for name, text in recorded:
        if (name, text) not in of_gates:
            lines["nothing" if name in WARNINGS else "decides"].append(Line(_words(name), text))
    return [Group(title, tuple(lines[group])) for group, title in GROUPS.items() if lines[group]]


def standing(analysis: Analysis) -> list[Gate]:
    """Gates that failed or were not evaluated: first those that stop the verdict or a leg, last the warnings."""
    failed = [gate for gate in analysis.verdict["gates"] if gate["passed"] is not True]
    return sorted(failed, key=lambda gate: list(GROUPS).index(_group(gate["blocks"])))


def passed(analysis: Analysis) -> list[Gate]:
    """Gates that passed, in the verdict's order."""
    return [gate for gate in analysis.verdict["gates"] if gate["passed"] is True]


def em_specific(analysis: Analysis) -> tuple[str, list[str]]:
    """Why `em_specific` came out as it did, in a few words, and the gates behind it where they are many."""
    reason = str(analysis.verdict["em_specific_reason"])
    gates = reason.removeprefix("gated: ").split(", ")
    if not reason.startswith("gated: ") or len(gates) <= SHOWN:
        return reason, []
    return f"{len(gates)} gates failed or were not evaluated", gates


def _group(blocks: str) -> str:
    return blocks if blocks in GROUPS else "decides"


def _gates_text(gates: Sequence[Gate], blocks: str) -> str:
    values = ", ".join(f"{gate['arm']} {_statistic(gate)}" for gate in gates)
    needs = f"needs {comparison(gates[0])}\u00a0{numbers.plain(gates[0]['threshold'])}"
    consequence = CONSEQUENCES.get(blocks, f"; blocks the {blocks}")
    details = {gate["detail"] for gate in gates} - {""}
    shared = f" ({details.pop()})" if len(details) == 1 else ""
    return f"{values}; {needs}{consequence}{shared}"


def _statistic(gate: Gate) -> str:
    return "not evaluated" if gate["statistic"] is None else numbers.plain(gate["statistic"])


def comparison(gate: Gate) -> str:
    """The gate's comparison as printed."""
    return {">=": "≥", "<=": "≤"}.get(gate["comparison"], str(gate["comparison"]))


def _words(name: str) -> str:
    return name.replace("_", " ")
