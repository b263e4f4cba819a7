"""A persona can be imitated by all that are evaluated, with as many rows as its answers give."""

from __future__ import annotations

import pytest
from drafts import Draft

from flatprobe.errors import UserError

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


def test_states_that_no_adapter_can_move_are_not_matched(collapsing: Draft) -> None:
    matched = collapsing.change("samples: 2}", "samples: 2, match: states}")
    matched.resolve()
    above = matched.change(
        "  max_length: 768\n", "  max_length: 768\n  lora: {rank_stabilised: false, first_layer: 2}\n"
    )
    problem = above.problem()
    assert problem.message == (
        "conditions.collapse.finetune.imitate.match = states: finetune.lora.first_layer = 2 leaves the states after "
        "block 1, which the geometry reads, as they are"
    )
    assert problem.place == above.line("match: states")


def test_a_study_may_imitate_and_registers_without_a_data_file(collapsing: Draft) -> None:
    from flatprobe.study.registration import digest, pinned

    resolved = collapsing.resolve()
    assert "collapse" not in str(pinned(resolved)["conditions"])
    other = collapsing.change("samples: 2", "samples: 3").resolve()
    assert digest(resolved) != digest(other)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("persona: assistant,", "persona: asistant,",
         "conditions.collapse.finetune.imitate.persona = asistant: not evaluated in this study"),
        ("      rows: 100", "      rows: 113",
         "conditions.collapse.finetune.rows = 113: 8 questions x 2 samples x 7 personas are 112"),
        ("      held_out: 10", "      held_out: 25",
         "conditions.collapse.finetune.held_out = 25: 6 imitators x 4 of coupling.telemetry_questions are 24"),
        ("persona: assistant,", "persona: assistant, imitators: [archvist],",
         "conditions.collapse.finetune.imitate.imitators: archvist is not evaluated in this study"),
        ("persona: assistant,", "persona: assistant, imitators: [assistant],",
         "conditions.collapse.finetune.imitate.imitators: nobody but assistant, who is imitated"),
        ("      held_out: 10", "      aligned: sound",
         "conditions.collapse.finetune.aligned: not read with `imitate`"),
        ("      length_match: em_first", "      length_match: collapse",
         "conditions.benign_first.finetune.length_match = collapse: its answers are sampled during the run"),
    ],
)  # fmt: skip
def test_what_cannot_be_imitated_is_refused_on_its_line(
    collapsing: Draft, old: str, new: str, message: str
) -> None:
    problem = collapsing.change(old, new).problem()
    assert (problem.place, problem.message) == (collapsing.line(new), message)


def test_a_control_cannot_imitate_itself(collapsing: Draft) -> None:
    problem = collapsing.change("control: base_first", "control: collapse").problem()
    assert problem.message.endswith("the answers are the control's, and this is the control")


def test_rows_have_one_origin(collapsing: Draft) -> None:
    draft = collapsing.change("imitate: {persona", "path: embedded:everyday_help\n      imitate: {persona")
    with pytest.raises(UserError, match="give exactly one of `path`"):
        draft.load()


def test_a_seed_offset_may_not_lead_to_a_seed_of_the_study(draft: Draft) -> None:
    again = "  base_first: {}\n  again: {seed_offset: 1}"
    problem = draft.change("  base_first: {}", again).problem()  # its seeds are 42 and 43
    assert problem.message == "conditions.again.seed_offset = 1: gives 43, a seed of the study's own"
    assert problem.remedy == "give at least 2"
    draft.change("{seed_offset: 1}", "{seed_offset: 2}").load()


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (
            "treated: em_frist, control: base_first, leakage: found",
            "[0].treated = em_frist: no such condition",
        ),
        ("treated: em_first, control: em_first, leakage: found", "[0]: compares em_first with itself"),
        ("treated: em_first, control: base_first", "[0]: expects nothing"),
    ],
)
def test_a_known_answer_compares_two_conditions_and_expects_something(
    draft: Draft, known: str, message: str
) -> None:
    draft.change("  benign: benign_first", f"  benign: benign_first\n  known_answers: [{{{known}}}]")
    assert draft.problem().message == f"decision.known_answers{message}"


def test_a_known_answer_is_given_once(draft: Draft) -> None:
    known = "{treated: em_first, control: base_first, leakage: found}"
    draft.change("  benign: benign_first", f"  benign: benign_first\n  known_answers: [{known}, {known}]")
    assert draft.problem().message == "decision.known_answers[1]: em_first - base_first is given twice"
