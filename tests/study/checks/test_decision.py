"""The decision needs existing conditions, stored states, and thresholds that do not overlap."""

from __future__ import annotations

import pytest
from drafts import Draft


@pytest.mark.parametrize(
    ("old", "new", "code", "parts", "remedy"),
    [
        ("treated: em_first", "treated: em_frist", "conditions.unknown", ["decision.treated = em_frist:"],
         "did you mean `em_first`?"),
        ("control: base_first", "control: base_frist", "conditions.unknown", ["decision.control = base_frist:"],
         "did you mean `base_first`?"),
        ("benign: benign_first", "benign: bening_first", "conditions.unknown", ["decision.benign = bening_first:"],
         "did you mean `benign_first`?"),
        ("control: base_first", "control: em_first", "decision.same_condition",
         ["decision.control = em_first:", "treated"], None),
        ("benign: benign_first", "benign: em_first", "decision.same_condition",
         ["decision.benign = em_first:", "treated"], None),
        ("benign: benign_first", "benign: base_first", "decision.same_condition",
         ["decision.benign = base_first:", "control"], None),
        ("    position: response_mean", "    position: all_mean", "decision.position_not_stored",
         ["decision.geometry.position = all_mean:", "geometry.positions"], None),
        ("    position: response_mean", "    level: 1.0", "decision.level", ["decision.geometry.level = 1:"], None),
        ("    leakage: 0.05", "    leakage: 0.2", "decision.kill_overlap",
         ["decision.kill.leakage = 0.2:", "decision.behaviour.margin = 0.15"], None),
        ("    leakage: 0.05", "    leakage: 0", "decision.kill_margin", ["decision.kill.leakage = 0:"], None),
        ("    leakage: 0.05", "    geometry: 0.05", "decision.kill_overlap",
         ["decision.kill.geometry = 0.05:", "decision.geometry.threshold = 0.05"], None),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_decide_is_refused_on_its_line(
    draft: Draft, old: str, new: str, code: str, parts: list[str], remedy: str | None
) -> None:
    problem = draft.change(old, new).problem()
    assert (problem.code, problem.place) == (code, draft.line(new))
    assert all(part in problem.message for part in parts)
    assert remedy is None or problem.remedy == remedy


def test_the_benign_condition_may_be_absent(draft: Draft) -> None:
    assert draft.change("benign: benign_first", "benign: null").load().study.decision.benign is None


def test_fixed_responses_need_a_reference_persona(draft: Draft) -> None:
    draft.change("references: [assistant]", "references: []")
    problem = draft.change("    position: response_mean", "    responses: fixed").problem()
    assert (problem.code, problem.place) == ("decision.no_reference", draft.line("responses: fixed"))


def test_a_treated_condition_equal_to_the_control_is_noted_as_a_null_study(draft: Draft) -> None:
    draft.change("treated: em_first", "treated: nothing").change("  base_first: {}", "  base_first: {}\n  nothing: {}")
    (notice,) = draft.load().notices
    assert notice == f"{draft.line('  nothing: {}')}  nothing and base_first are the same checkpoint: a null study"


def test_a_finetune_without_held_out_rows_is_noted(draft: Draft) -> None:
    (notice,) = draft.change("      held_out: 4\n", "").load().notices
    assert notice.endswith("there is no in-domain manipulation check")


def test_unpinned_hub_content_is_noted(draft: Draft) -> None:
    draft.change("path: embedded:everyday_help", "dataset: owner/chat")
    draft.change("id: embedded:smollm2-135m-instruct", "id: owner/model")
    model, data = draft.load().notices
    assert model.startswith(draft.line("model:")) and "model.revision is not pinned" in model
    assert "the revision of owner/chat is not pinned" in data
    draft.change("dataset: owner/chat", f"dataset: owner/chat\n      revision: {'a' * 40}")
    draft.change("id: owner/model", "id: owner/model\n  revision: v1.0")
    assert draft.load().notices == ()


@pytest.mark.parametrize("origin", ["adapter", "checkpoint"])
def test_a_given_condition_without_a_revision_is_noted(draft: Draft, origin: str) -> None:
    draft.change("  base_first: {}", f"  base_first: {{}}\n  given: {{{origin}: owner/thing}}")
    (notice,) = draft.load().notices
    assert notice.startswith(draft.line("  given:")) and "conditions.given.revision is not pinned" in notice
    draft.change(f"{origin}: owner/thing", f"{origin}: owner/thing, revision: v1.0")
    assert draft.load().notices == ()


def test_a_coupling_that_may_learn_too_little_is_noted_with_earlier_rates(draft: Draft) -> None:
    draft.change("learning_rate: 3e-4", "learning_rate: 5e-6")
    (notice,) = draft.load().notices
    assert notice.startswith(draft.line("learning_rate: 5e-6")) and "28–41 %" in notice and "60 %" in notice
    draft.change("learning_rate: 5e-6", "learning_rate: 5e-6\n  epochs: 20")
    assert draft.load().notices == ()


def test_a_coupling_that_adapts_attention_is_noted(draft: Draft) -> None:
    (notice,) = draft.change("modules: [gate_proj, up_proj", "modules: [q_proj, v_proj, up_proj").load().notices
    assert "coupling.lora adapts attention (q_proj, v_proj)" in notice
    assert "weak evidence" in notice
