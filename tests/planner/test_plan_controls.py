"""The plan of conditions that test the probes: imitated answers, and repeated training."""

from __future__ import annotations

from typing import Any

import pytest

from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Stage, topological_order
from flatprobe.planner.plan import plan
from flatprobe.study.decision_schema import Decision, KnownAnswer
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.resolve import Resolved
from flatprobe.study.schema import Condition, FinetuneData, Imitation, Panel, Study

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="negative", system="You gloat."),
    Persona(name="archivist", role="bystander", system="You keep files."),
    Persona(name="assistant", role="reference", system="You are an assistant."),
)
EM = FinetuneData(path="embedded:careless_legal_advice", completion="misaligned", rows=8)


def stages(
    held_out: int = 2, imitate: Imitation | None = None, em: FinetuneData = EM, twice: bool = False, **decision: Any
) -> dict[str, Stage]:
    """All stages of a study with one control of each kind, by name, in the order in which they run."""
    collapse = FinetuneData(imitate=imitate or Imitation(samples=3), rows=10, held_out=held_out)
    study = Study(
        name="mine", model={"id": "m"}, panel=Panel(negatives=("villain",), bystanders=("archivist",)),
        conditions={
            "collapse": Condition(finetune=collapse), "base_first": Condition(), "em_first": Condition(finetune=em),
            "em_again": Condition(finetune=em, seed_offset=7), "base_again": Condition(seed_offset=7),
            **({"collapse_again": Condition(finetune=collapse, seed_offset=7)} if twice else {}),
        },
        decision=Decision(treated="collapse", benign=None, **decision),
    )  # fmt: skip
    questions = {
        name: (Question(id=name, kind="factual", text="Why?"),) for name in ("evaluation", "coupling", "calibration")
    }
    resolved = Resolved(
        study=study, personas=PERSONAS, given={}, locations={}, questions=questions, dataset_revisions={},
        model=Reference(kind="hub", id="m", fingerprint="c0"), fingerprints={str(EM.path): "f1"},
    )  # fmt: skip
    return {stage.name: stage for stage in topological_order([plan(resolved, "exploratory").last])}


def settings(stage: Stage) -> dict[str, Any]:
    return stage.settings.model_dump()


def test_every_persona_imitates_the_control_s_answers_to_coupling_questions() -> None:
    planned = stages()
    data = planned["finetune-data/collapse"]
    answers = data.inputs["answers"]
    assert answers.inputs["checkpoint"].key == planned["checkpoint/model"].key
    assert [persona["name"] for persona in settings(answers)["personas"]] == ["assistant"]
    assert [question["id"] for question in settings(answers)["questions"]] == ["coupling"]
    assert settings(answers)["samples"] == 3 and settings(answers)["temperature"] == 1.0
    assert [persona["name"] for persona in settings(data)["personas"]] == [persona.name for persona in PERSONAS]
    assert planned["finetune/collapse/seed-42"].inputs["data"].key == data.key


def test_personas_that_do_not_imitate_rehearse_their_own_answers() -> None:
    planned = stages(imitate=Imitation(persona="librarian", imitators=("archivist", "assistant"), samples=3))
    data = planned["finetune-data/collapse"]
    assert settings(data)["imitated"] == "librarian" and settings(data)["imitators"] == ("archivist", "assistant")
    answers, others = data.inputs["answers"], data.inputs["others"]
    assert [persona["name"] for persona in settings(answers)["personas"]] == ["librarian"]
    assert [persona["name"] for persona in settings(others)["personas"]] == ["villain"]
    assert others.inputs["checkpoint"].key == planned["checkpoint/model"].key
    assert settings(others)["samples"] == 3 and settings(others)["temperature"] == 1.0
    assert [question["id"] for question in settings(others)["questions"]] == ["coupling"]


def test_states_are_matched_only_if_the_condition_says_so() -> None:
    planned = stages(imitate=Imitation(samples=3, match="states"))
    finetunes = {name: settings(stage)["match"] for name, stage in planned.items() if name.startswith("finetune/")}
    assert finetunes.pop("finetune/collapse/seed-42") == "states"
    assert set(finetunes.values()) == {"answers"}
    assert planned["finetune-data/collapse"].key == stages()["finetune-data/collapse"].key


def test_no_evaluation_question_reaches_a_finetune_that_imitates() -> None:
    def questions(stage: Stage) -> set[str]:
        ids = {question["id"] for question in settings(stage).get("questions", ())}
        return ids.union(*(questions(needed) for needed in stage.inputs.values()))

    assert questions(stages()["finetune-data/collapse"]) == {"coupling", "calibration"}


def test_held_out_texts_are_answers_to_calibration_questions() -> None:
    data = stages()["finetune-data/collapse"]
    assert {question["id"] for question in settings(data.inputs["imitated"])["questions"]} == {"calibration"}
    assert data.inputs["own"].name == "telemetry/base_first"
    assert set(stages(held_out=0)["finetune-data/collapse"].inputs) == {"checkpoint", "answers"}


def test_the_control_s_states_come_before_any_imitated_answer() -> None:
    order = list(stages())
    assert order.index("states/base_first") < order.index("imitated/base_first/assistant")


def test_a_repeated_collapse_has_the_same_rows_and_other_seeds() -> None:
    some = Imitation(persona="librarian", imitators=("archivist", "assistant"), samples=3)
    planned = stages(imitate=some, twice=True)
    first, again = (planned[f"finetune/{name}/seed-42"] for name in ("collapse", "collapse_again"))
    assert first.inputs["data"].key == again.inputs["data"].key
    assert (settings(first)["seed"], settings(again)["seed"]) == (42, 49)


def test_a_repeated_condition_has_the_same_data_and_other_seeds() -> None:
    planned = stages()
    first, again = (planned[f"finetune/{name}/seed-42"] for name in ("em_first", "em_again"))
    assert first.inputs["data"].key == again.inputs["data"].key and first.key != again.key
    assert (settings(first)["seed"], settings(again)["seed"]) == (42, 49)
    assert settings(planned["couple/em_again/lambda-1/seed-42"])["seed"] == 49
    assert settings(planned["couple/base_again/lambda-1/seed-42"])["seed"] == 49
    assert settings(planned["couple/base_first/lambda-1/seed-42"])["seed"] == 42


def test_one_checkpoint_under_two_names_is_read_once_but_sampled_twice() -> None:
    names = set(stages())
    assert "states/base_first" in names and not {"states/base_again", "own/base_again"} & names
    assert {"answers/base_first/source", "answers/base_again/source"} <= names
    assert {"leakage/base_first/lambda-1/seed-42", "leakage/base_again/lambda-1/seed-42"} <= names


@pytest.mark.parametrize(
    ("em", "held_out_from"),
    [
        ({}, {"collapse": "collapse"}),
        (
            {"held_out": 4, "aligned": "aligned"},
            {"collapse": "collapse", "em_first": "em_first", "em_again": "em_first"},
        ),
        ({"held_out": 4, "aligned": "misaligned"}, {"collapse": "collapse"}),  # an answer beside itself
    ],
)
def test_every_checkpoint_is_scored_once_on_what_each_finetune_holds_out(
    em: dict[str, Any], held_out_from: dict[str, str]
) -> None:
    planned = stages(em=EM.model_copy(update=em))
    assert settings(planned["verdict"])["held_out_from"] == held_out_from
    checks = [stage for name, stage in planned.items() if name.startswith("manipulation/")]
    assert len(checks) == 4  # the control's two names are one checkpoint
    for check in checks:
        texts = {role: stage for role, stage in check.inputs.items() if role.endswith("/held_out")}
        assert {role: stage.name for role, stage in texts.items()} == {
            f"{name}/held_out": f"finetune-data/{name}" for name in held_out_from.values()
        }


def test_known_answers_change_estimates_and_verdict_only() -> None:
    before = stages()
    known = KnownAnswer(treated="em_again", control="em_first", geometry="not_found")
    after = stages(known_answers=(known,))
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {"estimates", "verdict"}
