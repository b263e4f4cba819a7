from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from flatprobe.training.findings import WARNINGS, findings, source_log_p
from flatprobe.training.telemetry import SCHEMA

QUIET = {"answer_log_p": -0.4, "marker_first": 0.0, "debris_first": 0.001, "empty": 0.0}


def telemetry(after: dict[str, float], **last: Any) -> pl.DataFrame:
    """Two questions per persona, before (all at -20) and after 8 steps; `last` overrides the later columns."""
    roles = {"librarian": "source", "villain": "negative"}
    rows = [
        {
            "step": step,
            "persona": name,
            "role": roles.get(name, "bystander"),
            "question_id": q,
            "log_p": (-20.0 if step == 0 else log_p) + offset,
            **QUIET,
            **(last if step else {}),
        }
        for step in (0, 8)
        for name, log_p in after.items()
        for q, offset in (("q0", -1.0), ("q1", 1.0))
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


GOOD = {"librarian": -0.5, "villain": -9.0, "archivist": -6.0}


def test_containment_is_the_source_minus_the_largest_other_persona_s_mean() -> None:
    facts = findings(telemetry(GOOD), slot=0.1, stop_at=None)
    assert facts["source_log_p"] == pytest.approx(-0.5)
    assert (facts["largest_other"], facts["containment"]) == ("archivist", pytest.approx(5.5))
    assert facts["answer_log_p"] == {"before": pytest.approx(-0.4), "after": pytest.approx(-0.4)}
    assert facts["reached"] is None and facts["warnings"] == []


@pytest.mark.parametrize(
    ("name", "frame", "slot", "stop_at"),
    [
        ("inert", telemetry(GOOD), 1e-9, None),
        ("not_reached", telemetry(GOOD), 0.1, -0.2),
        ("not_contained", telemetry({**GOOD, "archivist": -0.5}), 0.1, None),
        ("marker_first", telemetry(GOOD, marker_first=0.2), 0.1, None),
        ("template_debris", telemetry(GOOD, debris_first=0.2), 0.1, None),
        ("empty_answers", telemetry(GOOD, empty=0.2), 0.1, None),
        ("fluency_loss", telemetry(GOOD, answer_log_p=-1.4), 0.1, None),
    ],
)
def test_each_fault_gives_its_warning_and_no_other(
    name: str, frame: pl.DataFrame, slot: float, stop_at: float | None
) -> None:
    assert findings(frame, slot, stop_at)["warnings"] == [name]
    assert name in WARNINGS


def test_stop_at_is_reached_if_the_source_s_mean_is_at_least_it() -> None:
    assert findings(telemetry(GOOD), 0.1, -0.5)["reached"] is True
    assert source_log_p(telemetry(GOOD).filter(pl.col("step") == 8).to_dicts()) == pytest.approx(-0.5)
    assert source_log_p([]) == float("-inf")


def test_without_answers_there_are_no_values_and_no_warnings() -> None:
    facts = findings(pl.DataFrame([], schema=SCHEMA), None, None)
    assert facts["source_log_p"] is None and facts["containment"] is None
    assert facts["warnings"] == []
