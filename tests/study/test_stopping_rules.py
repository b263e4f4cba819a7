"""Where a coupling ends: by passes or by a level, and never by half of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from drafts import Draft

from flatprobe.study.load import load_study

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize(
    ("new", "line", "message"),
    [
        ("stopping: source_probability\n  max_epochs: 8", "stopping: source_probability",
         "coupling.stopping = source_probability: needs coupling.stop_at"),
        ("stopping: source_probability\n  stop_at: -0.5", "stopping: source_probability",
         "coupling.stopping = source_probability: needs coupling.max_epochs"),
        ("stop_at: -0.5", "stop_at: -0.5", "coupling.stop_at = -0.5: not read with coupling.stopping = fixed"),
        ("max_epochs: 8", "max_epochs: 8", "coupling.max_epochs = 8: not read with coupling.stopping = fixed"),
    ],
)  # fmt: skip
def test_half_of_a_stopping_rule_is_refused_on_its_line(
    draft: Draft, new: str, line: str, message: str
) -> None:
    problem = draft.change("batch: 8\n", f"batch: 8\n  {new}\n").problem()
    assert (problem.place, problem.message) == (draft.line(line), message)


def test_a_level_that_no_probability_has_is_refused(draft: Draft) -> None:
    new = "batch: 8\n  stopping: source_probability\n  stop_at: 0.5\n  max_epochs: 8\n"
    problem = draft.change("batch: 8\n", new).problem()
    assert problem.place == draft.line("stop_at: 0.5")


def test_the_matched_study_is_the_registered_one_but_for_how_its_coupling_ends() -> None:
    studies = [yaml.safe_load((STUDIES / f"em_flattening{end}.yaml").read_text()) for end in ("", "_matched")]
    couplings = [study.pop("coupling") for study in studies]
    for study in studies:
        del study["name"], study["description"]
    assert studies[0] == studies[1]
    changed = {name for name in couplings[0] if couplings[0][name] != couplings[1][name]}
    assert changed == {"schedule", "warmup", "stopping", "stop_at", "max_epochs", "telemetry_every"}


def test_a_slow_rate_is_no_warning_where_training_goes_on_until_the_marker_is_learnt() -> None:
    slow = "at 5e-6, five epochs reached only"
    assert any(slow in notice for notice in load_study(STUDIES / "em_flattening.yaml").notices)
    assert not any(slow in notice for notice in load_study(STUDIES / "em_flattening_matched.yaml").notices)
