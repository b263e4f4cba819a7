"""Evaluated personas can imitate one of them, with at most as many rows as there are answers."""

from __future__ import annotations

import pytest
from drafts import Draft

COLLAPSE = """\
  collapse:
    finetune:
      imitate: {persona: assistant, samples: 2}
      rows: 100
      held_out: 10
  benign_first:
"""


@pytest.fixture
def collapsing(draft: Draft) -> Draft:
    """Eight coupling questions, four of telemetry, and seven personas of whom one is a reference."""
    return draft.change("  benign_first:\n", COLLAPSE)


def test_states_that_the_adapter_cannot_change_are_not_matched(collapsing: Draft) -> None:
    matched = collapsing.change("samples: 2}", "samples: 2, match: states}")
    matched.resolve()
    above = matched.change(
        "  max_length: 768\n", "  max_length: 768\n  lora: {rank_stabilised: false, first_layer: 2}\n"
    )
    problem = above.problem()
    assert (problem.code, problem.place) == ("imitation.states_unchanged", above.line("match: states"))
    assert "finetune.lora.first_layer = 2" in problem.message and "block 1" in problem.message


def test_a_study_may_imitate_and_registers_without_a_data_file(collapsing: Draft) -> None:
    from flatprobe.study.registration import digest, pinned

    resolved = collapsing.resolve()
    assert "collapse" not in str(pinned(resolved)["conditions"])
    other = collapsing.change("samples: 2", "samples: 3").resolve()
    assert digest(resolved) != digest(other)


@pytest.mark.parametrize(
    ("old", "new", "code", "parts"),
    [
        ("persona: assistant,", "persona: asistant,", "panel.not_evaluated",
         ["conditions.collapse.finetune.imitate.persona = asistant:"]),
        ("      rows: 100", "      rows: 113", "imitation.too_few_rows",
         ["conditions.collapse.finetune.rows = 113: 8 questions x 2 samples x 7 personas are 112"]),
        ("      held_out: 10", "      held_out: 25", "imitation.too_few_pairs",
         ["conditions.collapse.finetune.held_out = 25: 6 imitators x 4 of coupling.telemetry_questions are 24"]),
        ("persona: assistant,", "persona: assistant, imitators: [archvist],", "panel.not_evaluated",
         ["conditions.collapse.finetune.imitate.imitators: archvist"]),
        ("persona: assistant,", "persona: assistant, imitators: [assistant],", "imitation.no_imitator",
         ["conditions.collapse.finetune.imitate.imitators:", "assistant"]),
        ("      held_out: 10", "      aligned: sound", "field.no_effect",
         ["conditions.collapse.finetune.aligned:"]),
        ("      length_match: em_first", "      length_match: collapse", "length_match.sampled",
         ["conditions.benign_first.finetune.length_match = collapse:"]),
    ],
)  # fmt: skip
def test_an_impossible_imitation_is_refused_on_its_line(
    collapsing: Draft, old: str, new: str, code: str, parts: list[str]
) -> None:
    problem = collapsing.change(old, new).problem()
    assert (problem.code, problem.place) == (code, collapsing.line(new))
    assert all(part in problem.message for part in parts)


def test_a_control_cannot_imitate_itself(collapsing: Draft) -> None:
    problem = collapsing.change("control: base_first", "control: collapse").problem()
    assert problem.code == "imitation.control"
    assert problem.message.startswith("conditions.collapse.finetune:")


def test_rows_have_one_origin(collapsing: Draft) -> None:
    draft = collapsing.change("imitate: {persona", "path: embedded:everyday_help\n      imitate: {persona")
    assert draft.problem().code == "finetune_data.origin"


def test_a_seed_offset_must_not_give_another_seed_of_the_study(draft: Draft) -> None:
    again = "  base_first: {}\n  again: {seed_offset: 1}"
    problem = draft.change("  base_first: {}", again).problem()  # its seeds are 42 and 43
    assert (problem.code, problem.place) == ("conditions.seed_offset", draft.line("seed_offset: 1"))
    assert problem.message.startswith("conditions.again.seed_offset = 1: gives 43")
    assert problem.remedy == "give at least 2"
    draft.change("{seed_offset: 1}", "{seed_offset: 2}").load()


@pytest.mark.parametrize(
    ("known", "code", "message"),
    [
        ("treated: em_frist, control: base_first, leakage: found", "conditions.unknown", "[0].treated = em_frist:"),
        ("treated: em_first, control: em_first, leakage: found", "decision.same_condition", "[0]:"),
        ("treated: em_first, control: base_first", "decision.no_expectation", "[0]:"),
    ],
)
def test_a_known_answer_compares_two_conditions_and_expects_something(
    draft: Draft, known: str, code: str, message: str
) -> None:
    draft.change("  benign: benign_first", f"  benign: benign_first\n  known_answers: [{{{known}}}]")
    problem = draft.problem()
    assert (problem.code, problem.place) == (code, draft.line("known_answers"))
    assert problem.message.startswith(f"decision.known_answers{message}")


def test_a_known_answer_is_given_once(draft: Draft) -> None:
    known = "{treated: em_first, control: base_first, leakage: found}"
    draft.change("  benign: benign_first", f"  benign: benign_first\n  known_answers: [{known}, {known}]")
    problem = draft.problem()
    assert (problem.code, problem.place) == ("decision.duplicate_contrast", draft.line("known_answers"))
    assert problem.message.startswith("decision.known_answers[1]: em_first - base_first")
