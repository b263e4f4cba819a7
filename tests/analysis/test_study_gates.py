from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from planted_evidence import behavioural, geometric

from flatprobe.analysis.gate_statistics import source_rate, study_gates
from flatprobe.decision.evidence import Contrast
from flatprobe.decision.gates import Gate
from flatprobe.planner.contracts import DecideSettings
from flatprobe.study.decision_schema import Decision, Gates

SETTINGS = DecideSettings(
    rule=Decision(), source="librarian", bystanders=("archivist", "journalist"), registered="exploratory", smoke=False,
    finetuned=(), held_out_from={},
)  # fmt: skip


def evidence(leakage: float | None) -> Contrast:
    return Contrast(geometric(0.1, 0.08, 0.12), behavioural(leakage, 0.2, 0.4, 0.001))


def gates(folder: Path, trained: list[str], texts: list[str], leakage: float | None = 0.3) -> dict[str, Gate]:
    """Gates of a study whose tables name these trained personas and ask these questions."""
    pl.DataFrame({"persona": trained}).write_parquet(folder / "lengths.parquet")
    pl.DataFrame({"text": texts}).write_parquet(folder / "questions.parquet")
    return {gate.name: gate for gate in study_gates(SETTINGS, folder, evidence(leakage))}


def test_a_bystander_with_training_examples_blocks_everything(tmp_path: Path) -> None:
    clean = gates(tmp_path, ["librarian", "villain"], ["One?", "Two?"])["role_overlap"]
    assert (clean.passed, clean.statistic) == (True, 0)
    trained = gates(tmp_path, ["librarian", "archivist", "archivist"], ["One?", "Two?"])["role_overlap"]
    assert (trained.passed, trained.statistic, trained.blocks) == (False, 1, "everything")
    assert "archivist" in trained.detail


def test_a_question_asked_in_two_sets_blocks_everything_whatever_its_case(tmp_path: Path) -> None:
    found = gates(tmp_path, ["librarian"], ["What is rain?", "Why sleep?", "what is  RAIN?"])["question_overlap"]
    assert (found.passed, found.statistic, found.blocks) == (False, 1, "everything")


def test_a_deciding_estimate_that_is_missing_fails_the_analysis(tmp_path: Path) -> None:
    found = gates(tmp_path, ["librarian"], ["One?"], leakage=None)["analysis"]
    assert (found.passed, found.statistic) == (False, 0.5)


@pytest.mark.parametrize(("match", "expected"), [("strict", 0.6), ("end_anchored", 0.3)])
def test_the_source_rate_counts_what_the_rule_says(match: str, expected: float) -> None:
    rule = Decision(gates=Gates(source_match=match))  # type: ignore[arg-type]
    rates = pl.DataFrame(
        {
            "condition": ["em_first"] * 3, "persona": ["librarian", "librarian", "villain"],
            "total": [10, 20, 10], "rate": [0.4, 0.7, 1.0], "end_rate": [0.3, 0.3, 1.0],
        }
    )  # fmt: skip
    assert source_rate(SETTINGS.model_copy(update={"rule": rule}), rates, "em_first") == expected
    assert source_rate(SETTINGS, rates, "base_first") is None
