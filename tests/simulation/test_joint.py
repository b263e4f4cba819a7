"""Verdicts of the registered rule in simulated studies of both probes."""

from __future__ import annotations

import pytest

from flatprobe.decision.gates import complete
from flatprobe.simulation.grid import Grid, Simulated, simulate
from flatprobe.simulation.joint import VERDICTS, JointRow, JointTruth, passing_gates, simulated_rule
from flatprobe.simulation.table import by_variance, joint_table, leakage_table, markdown
from flatprobe.study.decision_schema import Decision


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate(Grid(studies=25, variances=("none", "parent"), truths=(0.0,), seed=2))


def row(simulated: Simulated, truth: JointTruth, variance: str = "none") -> JointRow:
    return next(r for r in simulated.joint if (r.truth, r.variance) == (truth, variance))


@pytest.mark.parametrize("variance", ["none", "parent"])
def test_a_null_study_is_rarely_flattened(simulated: Simulated, variance: str) -> None:
    assert row(simulated, "null", variance).verdicts["flattened"].value <= 0.04


def test_large_effects_in_both_legs_are_flattened(simulated: Simulated) -> None:
    assert row(simulated, "both").verdicts["flattened"].value > 0.9
    assert row(simulated, "both", "parent").verdicts["flattened"].value > 0.6


def test_an_effect_in_one_leg_gives_the_verdict_of_that_leg(simulated: Simulated) -> None:
    assert row(simulated, "geometry").verdicts["geometry_only"].value > 0.9
    assert row(simulated, "behaviour").verdicts["behaviour_only"].value > 0.9
    assert row(simulated, "behaviour").geometric_leg.value < 0.1
    assert row(simulated, "geometry").behavioural_leg.value < 0.1


def test_every_study_has_one_verdict(simulated: Simulated) -> None:
    for result in simulated.joint:
        assert list(result.verdicts) == list(VERDICTS)
        assert sum(share.value for share in result.verdicts.values()) == pytest.approx(1.0)


def test_the_planted_effects_have_the_sizes_of_the_truth(simulated: Simulated) -> None:
    assert abs(row(simulated, "null").mean_geometry) < 0.02
    assert row(simulated, "both").mean_geometry == pytest.approx(0.11, abs=0.03)
    assert row(simulated, "both").mean_leakage == pytest.approx(0.30, abs=0.03)


def test_simulated_studies_pass_every_gate_that_a_study_must_have() -> None:
    rule = simulated_rule(Decision())
    gates = passing_gates(rule)
    assert all(gate.passed for gate in gates)
    assert complete(gates, rule) == tuple(gates)


def test_the_rule_that_is_simulated_differs_in_names_only() -> None:
    rule = Decision()
    changed = simulated_rule(rule).model_dump()
    assert {name for name, value in rule.model_dump().items() if changed[name] != value} == {
        "treated", "control", "benign",
    }  # fmt: skip


def test_another_rule_is_applied() -> None:
    unreachable = Decision.model_validate({"geometry": {"threshold": 0.9}})
    grid = Grid(studies=5, variances=("none",), truths=(0.0,), rule=unreachable)
    both = row(simulate(grid), "both")
    assert both.verdicts["behaviour_only"].value == 1.0
    assert both.geometric_leg.value == 0.0


def test_tables_show_a_share_with_its_error_and_a_dash_without_a_number(simulated: Simulated) -> None:
    table = leakage_table(simulated.leakage)
    flip = next(line for line in table.rows if line[2] == "persona_sign_flip")
    assert flip[table.columns.index("p < .001")] == "–"
    verdicts = joint_table(simulated.joint)
    assert {len(line) for line in table.rows} == {len(table.columns)}
    assert {len(line) for line in verdicts.rows} == {len(verdicts.columns)}
    size = by_variance(simulated.leakage, 0.0, [("size", lambda result: result.rejected_05)])
    assert size.columns == ["estimator", "none: size", "parent: size"]
    assert markdown(size).splitlines()[1] == "| --- | --: | --: |"
