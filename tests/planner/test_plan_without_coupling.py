"""The plan of a study without a coupling: states and estimates, and no verdict."""

from __future__ import annotations

from typing import Any

import pytest

from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Stage, topological_order
from flatprobe.planner.contracts import SampleSettings, StatesSettings
from flatprobe.planner.plan import plan
from flatprobe.study.decision_schema import Decision
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.resolve import Resolved
from flatprobe.study.schema import Condition, Geometry, Leakage, Panel, Study

BASE = Reference(kind="hub", id="org/base", fingerprint="c0")
TREATED = Reference(kind="local", id="tuned", fingerprint="f1")
PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="bystander", system="You gloat."),
    Persona(name="template_default", role="reference", system=None),
    Persona(name="assistant", role="reference", system="You help."),
)


def resolved(
    treated: Reference = TREATED,
    condition: Condition | None = None,
    personas: tuple[Persona, ...] = PERSONAS,
    seed: int = 0,
    **geometry: Any,
) -> Resolved:
    study = Study(
        name="mine", model={"id": "org/base"}, panel=Panel(negatives=(), random_negatives=0, bystanders=("villain",)),
        conditions={"base": Condition(), "treated": condition or Condition(checkpoint="tuned")}, coupling=None,
        decision=Decision(treated="treated", control="base", benign=None), seeds=(seed,), leakage=Leakage(),
        geometry=Geometry(**({"layers": (2, 5), "positions": ("all_mean",)} | geometry)),
    )  # fmt: skip
    return Resolved(
        study=study,
        personas=personas,
        questions={"evaluation": (Question(id="q", kind="factual", text="Why?"),), "coupling": (), "calibration": ()},
        model=BASE,
        given={"treated": treated},
        fingerprints={},
        dataset_revisions={},
        locations={},
    )


def stages(study: Resolved) -> dict[str, Stage]:
    """All stages by name, in the order in which they run."""
    return {stage.name: stage for stage in topological_order([plan(study, "exploratory").last])}


def sampled(stage: Stage) -> SampleSettings:
    assert isinstance(stage.settings, SampleSettings)
    return stage.settings


def test_the_control_comes_before_the_treated_checkpoint_and_there_is_no_coupling() -> None:
    assert list(stages(resolved())) == [
        "checkpoint/model", "own/base", "states/base", "checkpoint/treated", "own/treated", "states/treated", "tables",
        "estimates",
    ]  # fmt: skip
    assert plan(resolved(), "exploratory").verdict is None


def test_other_layers_positions_or_resamples_do_not_change_the_answers() -> None:
    before = stages(resolved())
    after = stages(resolved(layers=(1,), positions=("prompt_mean",), resamples=99))
    for name in ("checkpoint/model", "own/base", "checkpoint/treated", "own/treated"):
        assert before[name].key == after[name].key
    assert before["states/base"].key != after["states/base"].key
    resampled_again = stages(resolved(resamples=99))
    assert resampled_again["states/treated"].key == before["states/treated"].key
    assert resampled_again["estimates"].key != before["estimates"].key


@pytest.mark.parametrize("samples", [1, 3])
def test_a_checkpoint_compared_with_itself_is_computed_once(samples: int) -> None:
    base = plan(resolved(treated=BASE, samples=samples), "exploratory")
    order = topological_order([base.last])
    assert not [stage.name for stage in order if "treated" in stage.name]


def test_a_single_own_answer_is_greedy_and_several_come_from_the_same_streams() -> None:
    assert sampled(stages(resolved())["own/base"]).temperature == 0.0
    several = stages(resolved(samples=4))
    base, treated = sampled(several["own-samples/base"]), sampled(several["own-samples/treated"])
    assert (base.samples, base.temperature, base.top_p) == (4, 1.0, 1.0)
    assert base.seed == treated.seed
    assert "own/treated" not in several  # its greedy answers have no reader


def test_the_fixed_answers_are_the_control_s_greedy_ones_as_the_assistant() -> None:
    for planned in (stages(resolved()), stages(resolved(samples=4))):
        for condition in ("base", "treated"):
            states = planned[f"states/{condition}"]
            assert states.inputs["fixed"] is planned["own/base"]
            assert isinstance(states.settings, StatesSettings) and states.settings.fixed_persona == "assistant"
        assert sampled(planned["own/base"]).temperature == 0.0


@pytest.mark.parametrize(("personas", "speaker"), [(3, "template_default"), (2, "librarian")])
def test_without_an_assistant_another_reference_or_the_source_gives_the_fixed_answers(
    personas: int, speaker: str
) -> None:
    settings = stages(resolved(personas=PERSONAS[:personas]))["states/base"].settings
    assert isinstance(settings, StatesSettings) and settings.fixed_persona == speaker


def test_an_adapter_is_merged_into_the_model() -> None:
    treated = stages(resolved(condition=Condition(adapter="folder")))["checkpoint/treated"]
    assert treated.kind == "merge"
    assert treated.inputs["checkpoint"].name == "checkpoint/model"
