"""What a low source rate means is read of the source and the negatives after the last step of each training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl

from flatprobe.analysis.decide import _source_reason
from flatprobe.study.decision_schema import Decision


def reading(persona: str, role: str, step: int, seed: int, log_p: float) -> list[dict[str, Any]]:
    return [
        {"condition": "em_first", "lambda": 1.0, "seed": seed, "step": step, "persona": persona, "role": role,
         "question_id": f"q{q}", "log_p": log_p + 0.01 * q * len(role)}
        for q in range(6)
    ]  # fmt: skip


def reason(tmp_path: Path, rows: list[dict[str, Any]]) -> str | None:
    (tmp_path / "tables").mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(tmp_path / "tables" / "telemetry.parquet")
    settings: Any = SimpleNamespace(rule=Decision(), source="librarian")
    return _source_reason(settings, tmp_path, 1.0)


def learnt(seed: int, last: int, negative: float, source: float = -2.0) -> list[dict[str, Any]]:
    return [
        *reading("librarian", "source", 0, seed, -40.0), *reading("villain", "negative", 0, seed, -40.0),
        *reading("librarian", "source", last, seed, source), *reading("villain", "negative", last, seed, negative),
    ]  # fmt: skip


def test_bystanders_which_are_never_trained_on_have_no_part_in_it(tmp_path: Path) -> None:
    separable, not_separable = (learnt(42, 8, negative) for negative in (-30.0, -2.0))
    answers = {name: reason(tmp_path / name, rows) for name, rows in (("a", separable), ("b", not_separable))}
    assert answers["a"] != answers["b"]
    for name, rows, bystander in (("a", separable, -2.0), ("b", not_separable, -60.0)):
        read = [*rows, *reading("archivist", "bystander", 8, 42, bystander)]
        assert reason(tmp_path / name, read) == answers[name]


def test_seeds_that_stopped_at_different_steps_are_each_read_at_their_last(tmp_path: Path) -> None:
    alike, apart = ([*learnt(1, 8, -2.0, -25.0), *learnt(2, last, -25.0)] for last in (8, 30))  # leads of -23 and 23
    assert reason(tmp_path, alike) == reason(tmp_path, apart) == "source_not_separable"
    assert reason(tmp_path, learnt(2, 30, -25.0)) == "coupling_failed"


def test_without_a_finished_answer_there_is_no_telemetry_and_no_reason(tmp_path: Path) -> None:
    settings: Any = SimpleNamespace(rule=Decision(), source="librarian")
    assert _source_reason(settings, tmp_path, 1.0) is None
