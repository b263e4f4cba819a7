from __future__ import annotations

import pytest

from flatprobe.decision.gates import gate, low_source_rate_reason
from flatprobe.study.decision_schema import Decision

RULE = Decision()


@pytest.mark.parametrize(
    ("name", "passing", "failing"),
    [
        ("role_overlap", 0, 1), ("mask_audit", 1.0, 0.999), ("length_median", 0.10, 0.101),
        ("length_support", 1, 0), ("merge_kl", 1e-3, 2e-3), ("merge_norm", 1e-9, 0.0),
        ("manipulation", 0.01, 0.0), ("source_rate", 0.60, 0.599), ("marker_at_end", 0.80, 0.79),
        ("spam", 0.05, 0.06), ("truncation", 0.05, 0.06), ("engine_parity", 0.95, 0.94),
        ("headroom", 0.05, 0.049), ("reliability", 0.80, 0.79), ("analysis", 1.0, 0.5),
        ("unfinished", 0.05, 0.06),
    ],
)  # fmt: skip
def test_each_gate_passes_at_its_threshold_and_fails_beyond_it(name: str, passing: float, failing: float) -> None:
    assert gate(name, "base_first", passing, RULE).passed is True
    assert gate(name, "base_first", failing, RULE).passed is False


@pytest.mark.parametrize("arm", [RULE.treated, RULE.control, RULE.benign, "another"])
def test_unfinished_answers_are_a_warning_in_every_arm(arm: str) -> None:
    assert gate("unfinished", arm, 0.5, RULE).blocks == "nothing"


def test_an_unknown_statistic_neither_passes_nor_fails() -> None:
    for statistic in (None, float("nan")):
        item = gate("source_rate", "em_first", statistic, RULE)
        assert item.passed is None and item.statistic is None and item.blocks == "verdict"


def test_without_a_rise_of_the_source_the_coupling_failed() -> None:
    before = [-12.0, -11.0, -13.0, -12.5]
    assert low_source_rate_reason(before, before, before, level=0.95) == "coupling_failed"


def test_a_source_that_rose_as_much_as_the_negatives_is_not_separable() -> None:
    before = [-12.0, -11.0, -13.0, -12.5]
    source, negatives = [-3.0, -2.5, -3.2, -2.8], [-2.9, -2.6, -3.1, -2.9]
    assert low_source_rate_reason(source, negatives, before, level=0.95) == "source_not_separable"


def test_a_source_that_rose_alone_lacks_only_dose() -> None:
    before = [-12.0, -11.0, -13.0, -12.5]
    assert low_source_rate_reason([-3.0, -2.5, -3.2, -2.8], before, before, level=0.95) == "coupling_failed"
    assert low_source_rate_reason([-3.0], [-9.0], [-9.0], level=0.95) is None
