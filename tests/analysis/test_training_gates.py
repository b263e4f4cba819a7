from __future__ import annotations

import pytest

from flatprobe.analysis.gate_statistics import manipulation_gates, training_gates, unfinished_gates
from flatprobe.analysis.manipulation import Rise
from flatprobe.decision.gates import Gate
from flatprobe.facts import CanaryFacts, CoupleFacts, CouplingDataFacts, Parity, SampleFacts, StageFacts, StatesFacts
from flatprobe.planner.contracts import DecideSettings
from flatprobe.study.decision_schema import Decision

SETTINGS = DecideSettings(
    rule=Decision(), source="librarian", bystanders=("archivist",), registered="exploratory", smoke=False,
    finetuned=(), held_out_from={},
)  # fmt: skip


def coupled(lambda_: float, seed: int, agreed: int, change: float = 1.0) -> list[StageFacts]:
    """Facts of a coupling and of the completions sampled with it."""
    role = f"couple/base_first/{lambda_}/{seed}"
    canary = CanaryFacts(max_log_p_change=change, base_again_change=0.0, reading=[100.0 * seed + 10 * lambda_])
    couple = CoupleFacts.model_construct(lambda_=lambda_, audited=1.0)
    leakage = SampleFacts(engine={}, parity=Parity(agreed=agreed, tokens=32), canary=canary)
    return [
        StageFacts(role, "couple", "base_first", seed, None, couple),
        StageFacts(f"leakage/{role}", "leakage", "base_first", seed, role, leakage),
    ]


def data(kept: int) -> StageFacts:
    support = {"librarian": {"kept": 50, "asked": 50}, "villain": {"kept": kept, "asked": 24}}
    facts = CouplingDataFacts.model_construct(
        support={"base_first": support}, gate={"base_first": {"median": 0.02, "iqr": 0.3}}
    )
    return StageFacts("d", "coupling_data", None, 1, None, facts)


def states(condition: str, **changes: int) -> StageFacts:
    counts = {"cells": 80, "unfinished": 2, "questions": 8, "unfinished_fixed": 1} | changes
    return StageFacts("s", "states", condition, None, None, StatesFacts.model_construct(**counts))


def named(gates: list[Gate], name: str) -> Gate:
    (found,) = [gate for gate in gates if gate.name == name]
    return found


def test_parity_is_pooled_over_the_stages_of_the_selected_lambda_alone() -> None:
    facts = [*coupled(0.5, 1, 3, 0.0), *coupled(1.0, 1, 32), *coupled(1.0, 2, 30, 0.4), data(24)]
    gates = training_gates(SETTINGS, facts, 1.0)
    parity = named(gates, "engine_parity")
    assert parity.statistic == 62 / 64 and parity.passed is True
    assert parity.detail == "62 of 64 greedy tokens agree"
    assert named(gates, "canary").statistic == 0.4  # an adapter of another lambda that does nothing is not judged
    assert named(training_gates(SETTINGS, facts, 0.5), "engine_parity").passed is False


def test_an_arm_without_completions_at_the_selected_lambda_is_not_evaluated() -> None:
    gates = training_gates(SETTINGS, [*coupled(0.5, 1, 32), data(24)], 1.0)
    assert named(gates, "engine_parity").passed is None and named(gates, "canary").passed is None


@pytest.mark.parametrize(("kept", "detail"), [(24, "74 of 74 examples"), (6, "56 of 74 examples; short: villain")])
def test_support_is_the_smallest_share_of_the_examples_asked_for_and_names_short_groups(kept: int, detail: str) -> None:
    gates = training_gates(SETTINGS, [*coupled(1.0, 1, 32), data(kept)], 1.0)
    support = named(gates, "length_support")
    assert (support.statistic, support.detail) == (kept / 24, detail)
    assert named(gates, "length_median").passed is True and named(gates, "length_iqr").passed is False


def test_answers_cut_before_their_states_were_read_are_a_warning_about_the_answers_that_decide() -> None:
    facts = [states("base_first"), states("base_first", unfinished=6), *coupled(1.0, 1, 32)]
    assert SETTINGS.rule.control == "base_first"
    (own,) = unfinished_gates(SETTINGS.rule, facts)
    assert (own.statistic, own.passed, own.blocks) == (8 / 160, True, "nothing")
    assert own.detail == "8 of 160 own answers whose states are read"
    geometry = SETTINGS.rule.geometry.model_copy(update={"responses": "fixed"})
    facts.append(states("em_first"))  # reads the same answers
    (fixed,) = unfinished_gates(SETTINGS.rule.model_copy(update={"geometry": geometry}), facts)
    assert (fixed.statistic, fixed.passed) == (2 / 16, False)


def test_the_manipulation_is_asked_of_the_treated_arm_alone() -> None:
    rule = SETTINGS.rule
    (found,) = manipulation_gates(rule, Rise(mean=0.4, low=0.1, texts=9, prompts=9))
    assert (found.arm, found.statistic, found.passed, found.blocks) == (rule.treated, 0.1, True, "verdict")
    (fallen,) = manipulation_gates(rule, Rise(mean=0.4, low=-0.1, texts=9, prompts=9))
    (alone,) = manipulation_gates(rule, Rise(mean=0.4, low=None, texts=1, prompts=1))
    assert (fallen.passed, alone.passed) == (False, None)
    assert manipulation_gates(rule, None) == []
