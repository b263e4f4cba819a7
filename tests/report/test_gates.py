"""Reasons and gates, grouped by what they block."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flatprobe.decision.gates import gate, required
from flatprobe.decision.rule import decide
from flatprobe.report import gates as gating
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.study.decision_schema import Decision

RULE = Decision()
FAILED = {("spam", "base_first"), ("spam", "em_first"), ("source_rate", "base_first"), ("spam", "benign_first")}


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def decided(analysis: Analysis, failed: set[tuple[str, str]]) -> Analysis:
    """The analysis with the verdict of a run in which these gates failed and the source rates are unknown."""
    low = {"spam": 0.3, "source_rate": 0.2}
    fine = {"spam": 0.01, "truncation": 0.01, "analysis": 1.0}
    gates = [
        gate(kind, arm, low[kind] if (kind, arm) in failed else fine.get(kind, 0.9), RULE)
        for kind, arm in {*required(RULE), *failed}
    ]
    gates.append(gate("reliability", "base_first", 0.1, RULE, "split-half"))
    main = analysis.verdict.numbers.main
    unknown = dataclasses.replace(main.behaviour, source_rate_treated=None, source_rate_control=None)
    main = dataclasses.replace(main, behaviour=unknown)
    return dataclasses.replace(analysis, outcome=decide(RULE, main, gates, treated_benign=main))


def test_gates_of_one_name_share_a_line_and_deciding_ones_come_first(analysis: Analysis) -> None:
    groups = gating.reasons(decided(analysis, FAILED))
    assert [group.title for group in groups] == list(gating.GROUPS.values())
    deciding, specific, warnings = ({line.name: line.text for line in group.lines} for group in groups)
    assert set(deciding) == {"spam", "coupling failed, source rate"}
    assert "base_first 0.3" in deciding["spam"]
    assert "em_first 0.3" in deciding["spam"]
    assert deciding["spam"].endswith("needs ≤\u00a00.05; blocks the behavioural leg")
    assert specific == {"spam": "benign_first 0.3; needs ≤\u00a00.05"}
    assert set(warnings) == {"reliability", "dose unknown"}
    assert warnings["reliability"] == "base_first 0.1; needs ≥\u00a00.8 (split-half)"


def test_every_recorded_reason_is_in_exactly_one_line(analysis: Analysis) -> None:
    other = decided(analysis, FAILED)
    lines = [line for group in gating.reasons(other) for line in group.lines]
    named = sum(max(1, line.text.count("_first ")) for line in lines)
    assert named == len(other.verdict.reasons)


def test_standing_gates_are_sorted_by_weight_and_none_is_lost(analysis: Analysis) -> None:
    other = decided(analysis, FAILED)
    table = gating.gate_table(other, passed=False)
    standing = [row[:2] for row in table.rows]
    assert set(standing[:3]) == {("spam", "base_first"), ("spam", "em_first"), ("source rate", "base_first")}
    assert standing[3:] == [("spam", "benign_first"), ("reliability", "base_first")]
    assert {row[2] for row in table.rows} == {"✕ failed"}
    assert len(standing) + len(gating.gate_table(other, passed=True).rows) == len(other.verdict.gates)


def test_many_gates_behind_em_specific_are_counted_and_few_are_named(analysis: Analysis) -> None:
    summary, behind = gating.em_specific(decided(analysis, FAILED))
    assert summary == "4 gates failed or were not evaluated"
    assert sorted(behind) == sorted(f"{name} of {arm}" for name, arm in FAILED)
    assert gating.em_specific(decided(analysis, {("spam", "em_first")})) == ("gated: spam of em_first", [])
    assert gating.em_specific(decided(analysis, set()))[1] == []
