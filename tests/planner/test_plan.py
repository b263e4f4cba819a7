from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Stage, topological_order
from flatprobe.planner.contracts import SampleSettings
from flatprobe.planner.kinds import FORMER_KINDS, KINDS
from flatprobe.planner.plan import plan
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.resolve import Resolved
from flatprobe.study.schema import Condition, FinetuneData, Geometry, Imitation, Panel, Study

PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="negative", system="You gloat."),
    Persona(name="archivist", role="bystander", system="You keep files."),
    Persona(name="template_default", role="reference", system=None),
    Persona(name="assistant", role="reference", system="You are an assistant."),
)
EM = FinetuneData(dataset="org/bad", rows=8, held_out=2, aligned="aligned")
IMITATING = FinetuneData(imitate=Imitation(), rows=8)
BENIGN = FinetuneData(path="embedded:everyday_help", rows=8, length_match="em_first")


def resolved(personas: tuple[Persona, ...] = PERSONAS, **changes: Any) -> Resolved:
    study = Study(
        name="mine", model={"id": "m"}, panel=Panel(negatives=("villain",), bystanders=("archivist",)),
        conditions={
            "benign_first": Condition(finetune=BENIGN), "base_first": Condition(), "em_first": Condition(finetune=EM),
        },
        manipulation="embedded:out_of_domain_advice",
    )  # fmt: skip
    outside = {name: changes.pop(name) for name in ("fingerprints", "dataset_revisions") if name in changes}
    question = (Question(id="q", kind="factual", text="Why?"),)
    given: dict[str, Any] = {
        "study": study.model_copy(update=changes), "personas": personas, "given": {}, "locations": {},
        "model": Reference(kind="hub", id="m", fingerprint="c0"),
        "questions": {"evaluation": question, "coupling": question, "calibration": question},
        "fingerprints": {"embedded:everyday_help": "f1", "embedded:out_of_domain_advice": "f2"},
        "dataset_revisions": {"em_first": "c1"},
    }  # fmt: skip
    return Resolved(**(given | outside))


def stages(study: Resolved) -> dict[str, Stage]:
    """All stages by name, in the order in which they run."""
    return {stage.name: stage for stage in topological_order([plan(study, "exploratory").last])}


def test_every_planned_function_exists_and_its_version_enters_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stages(resolved())
    controls = stages(resolved(conditions={"base_first": Condition(), "em_first": Condition(finetune=IMITATING)}))
    planned = {stage.kind for stage in (*before.values(), *controls.values())}
    assert planned == KINDS.keys() - {"compare"} and FORMER_KINDS.keys() == KINDS.keys()
    for kind in KINDS.values():
        module, _, name = kind.function.partition(":")
        assert callable(getattr(import_module(module), name))
    monkeypatch.setitem(KINDS, "states", KINDS["states"]._replace(version=99))
    after = stages(resolved())
    changed = {name for name, stage in after.items() if stage.key != before[name].key}
    assert {name.partition("/")[0] for name in changed} == {"states", "tables", "estimates", "verdict"}


def test_data_is_read_first_and_the_control_s_states_before_any_training() -> None:
    order = list(stages(resolved()))
    assert order[:3] == ["checkpoint/model", "finetune-data/em_first", "finetune-data/benign_first"]
    trained = [place for place, name in enumerate(order) if name.startswith(("finetune/", "couple/"))]
    assert order.index("states/base_first") < min(trained)


def test_states_are_read_on_several_sampled_answers_and_fixed_ones_stay_greedy() -> None:
    geometry = Geometry(samples=3)
    planned = stages(resolved(geometry=geometry))
    states = planned["states/em_first/seed-42"]
    assert states.inputs["own"].name == "own-samples/em_first/seed-42"
    assert states.inputs["fixed"].name == "own/base_first"
    sampled = [planned[f"own-samples/{tag}"].settings for tag in ("base_first", "em_first/seed-42")]
    assert sampled[0] == sampled[1]  # the same streams, so equal checkpoints give equal answers
    assert isinstance(sampled[0], SampleSettings) and sampled[0].samples == 3 and sampled[0].temperature == 1
    assert not any(name.startswith("own-samples") for name in stages(resolved()))


def test_another_lambda_does_not_retrain_the_others() -> None:
    study = resolved()
    coupling = study.study.coupling
    assert coupling is not None
    more = coupling.unlikelihood.model_copy(update={"lambdas": (0.25, *coupling.unlikelihood.lambdas)})
    wider = stages(resolved(coupling=coupling.model_copy(update={"unlikelihood": more})))
    before = {name: stage.key for name, stage in stages(study).items() if name.startswith(("couple", "leakage"))}
    assert len(before) == 2 * 3 * 3
    assert {name: wider[name].key for name in before} == before


def test_fixed_responses_are_those_of_the_assistant_else_of_the_first_reference_else_of_the_source() -> None:
    def fixed(personas: tuple[Persona, ...]) -> str:
        settings = stages(resolved(personas))["states/base_first"].settings
        return str(settings.model_dump()["fixed_persona"])

    assert fixed(PERSONAS) == "assistant"
    assert fixed(PERSONAS[:4]) == "template_default"
    assert fixed(PERSONAS[:3]) == "librarian"


def test_a_hub_dataset_is_read_at_the_commit_it_was_resolved_to() -> None:
    before, moved = stages(resolved()), stages(resolved(dataset_revisions={"em_first": "c2"}))
    assert before["finetune-data/em_first"].settings.model_dump()["data"]["revision"] == "c1"
    assert before["finetune-data/em_first"].key != moved["finetune-data/em_first"].key
    assert before["states/base_first"].key == moved["states/base_first"].key


def test_the_content_of_embedded_triples_enters_the_manipulation_check_s_key() -> None:
    before = stages(resolved())
    other = stages(resolved(fingerprints={"embedded:everyday_help": "f1", "embedded:out_of_domain_advice": "f3"}))
    changed = {name for name in before if before[name].key != other[name].key}
    assert {name.partition("/")[0] for name in changed} == {"manipulation", "tables", "estimates", "verdict"}


def test_seeds_share_what_does_not_depend_on_them() -> None:
    names = list(stages(resolved(seeds=(1, 2))))
    assert names.count("states/base_first") == 1
    assert {name for name in names if name.startswith("states/em_first")} == {
        "states/em_first/seed-1", "states/em_first/seed-2",
    }  # fmt: skip
    assert "couple/base_first/lambda-0.5/seed-2" in names
