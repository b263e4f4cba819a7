"""A coupling ends after its passes or at a probability; each rule needs its own fields."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from drafts import Draft

from flatprobe.study.load import load_study

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize(
    ("new", "line", "code", "parts"),
    [
        ("stopping: source_probability\n  max_epochs: 8", "stopping: source_probability",
         "coupling.stopping_incomplete", ["coupling.stopping = source_probability:", "coupling.stop_at"]),
        ("stopping: source_probability\n  stop_at: -0.5", "stopping: source_probability",
         "coupling.stopping_incomplete", ["coupling.stopping = source_probability:", "coupling.max_epochs"]),
        ("stop_at: -0.5", "stop_at: -0.5", "field.no_effect",
         ["coupling.stop_at = -0.5:", "coupling.stopping = fixed"]),
        ("max_epochs: 8", "max_epochs: 8", "field.no_effect",
         ["coupling.max_epochs = 8:", "coupling.stopping = fixed"]),
    ],
)  # fmt: skip
def test_an_incomplete_stopping_rule_is_refused_on_its_line(
    draft: Draft, new: str, line: str, code: str, parts: list[str]
) -> None:
    problem = draft.change("batch: 8\n", f"batch: 8\n  {new}\n").problem()
    assert (problem.code, problem.place) == (code, draft.line(line))
    assert all(part in problem.message for part in parts)


def test_a_positive_log_probability_is_refused(draft: Draft) -> None:
    new = "batch: 8\n  stopping: source_probability\n  stop_at: 0.5\n  max_epochs: 8\n"
    problem = draft.change("batch: 8\n", new).problem()
    assert (problem.code, problem.place) == ("field.bound", draft.line("stop_at: 0.5"))


def test_the_matched_study_differs_from_the_registered_one_only_in_how_its_coupling_ends() -> None:
    studies = [yaml.safe_load((STUDIES / f"em_flattening{end}.yaml").read_text()) for end in ("", "_matched")]
    couplings = [study.pop("coupling") for study in studies]
    for study in studies:
        del study["name"], study["description"]
    assert studies[0] == studies[1]
    changed = {name for name in couplings[0] if couplings[0][name] != couplings[1][name]}
    assert changed == {"schedule", "warmup", "stopping", "stop_at", "max_epochs", "telemetry_every"}


def test_a_low_learning_rate_is_not_noted_if_training_continues_until_the_marker_is_learnt() -> None:
    slow = "coupling.learning_rate = 5e-06"
    assert any(slow in notice for notice in load_study(STUDIES / "em_flattening.yaml").notices)
    assert not any(slow in notice for notice in load_study(STUDIES / "em_flattening_matched.yaml").notices)
