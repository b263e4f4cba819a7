from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Stage, topological_order
from flatprobe.plan.comparison import plan_pair
from flatprobe.plan.contracts import SampleSettings, StatesSettings
from flatprobe.study.pair import Pair
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

BASE = Reference(kind="hub", id="org/base", fingerprint="c0")
TREATED = Reference(kind="local", id="tuned", fingerprint="f1")
PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="bystander", system="You gloat."),
    Persona(name="template_default", role="reference", system=None),
    Persona(name="assistant", role="reference", system="You help."),
)


def pair(**changes: Any) -> Pair:
    given: dict[str, Any] = {
        "base": BASE, "treated": TREATED, "adapter": None, "personas": PERSONAS,
        "questions": (Question(id="q", kind="factual", text="Why?"),), "layers": (2, 5), "positions": ("all_mean",),
        "responses": ("own", "fixed"), "samples": 1, "max_new_tokens": 8, "resamples": 10, "level": 0.9, "seed": 0,
        "precision": "float32",
    }  # fmt: skip
    return Pair(**(given | changes))


def stages(asked: Pair) -> dict[str, Stage]:
    """All stages by name, in the order in which they run."""
    return {stage.name: stage for stage in topological_order([plan_pair(asked).geometry])}


def sampled(stage: Stage) -> SampleSettings:
    assert isinstance(stage.settings, SampleSettings)
    return stage.settings


def test_the_base_is_read_before_the_treated_checkpoint_is_touched() -> None:
    assert list(stages(pair())) == [
        "checkpoint/base", "own/base", "states/base", "checkpoint/treated", "own/treated", "states/treated", "geometry",
    ]  # fmt: skip


def test_every_planned_function_exists() -> None:
    for stage in stages(pair(treated=None, adapter=TREATED)).values():
        module, _, name = stage.function.partition(":")
        assert callable(getattr(import_module(module), name))


def test_other_layers_positions_or_resamples_leave_the_answers_as_they_are() -> None:
    before, after = stages(pair()), stages(pair(layers=(1,), positions=("prompt_mean",), resamples=99))
    for name in ("checkpoint/base", "own/base", "checkpoint/treated", "own/treated"):
        assert before[name].key == after[name].key
    assert before["states/base"].key != after["states/base"].key
    drawn_again = stages(pair(resamples=99))
    assert drawn_again["states/treated"].key == before["states/treated"].key
    assert drawn_again["geometry"].key != before["geometry"].key


@pytest.mark.parametrize("samples", [1, 3])
def test_a_checkpoint_compared_with_itself_is_computed_once(samples: int) -> None:
    assert not [name for name in stages(pair(treated=BASE, samples=samples)) if "treated" in name]
    assert pair(treated=BASE).identical and not pair().identical


def test_own_answers_are_greedy_alone_and_drawn_from_the_same_streams_where_there_are_several() -> None:
    assert sampled(stages(pair())["own/base"]).temperature == 0.0
    several = stages(pair(samples=4))
    base, treated = sampled(several["own/base"]), sampled(several["own/treated"])
    assert (base.samples, base.temperature, base.top_p) == (4, 1.0, 1.0)
    assert base.seed == treated.seed


def test_the_fixed_answers_are_greedy_ones_of_the_base_as_the_assistant() -> None:
    one, several = stages(pair()), stages(pair(samples=4))
    for side in ("base", "treated"):
        assert one[f"states/{side}"].inputs["fixed"] is one["own/base"]
        assert several[f"states/{side}"].inputs["fixed"] is several["fixed"]
        settings = several[f"states/{side}"].settings
        assert isinstance(settings, StatesSettings) and settings.fixed_persona == "assistant"
    fixed = sampled(several["fixed"])
    assert (fixed.samples, fixed.temperature) == (1, 0.0)
    assert [persona.name for persona in fixed.personas] == ["assistant"]
    assert several["fixed"].inputs["checkpoint"] is several["checkpoint/base"]


@pytest.mark.parametrize(("kept", "speaker"), [(3, "template_default"), (2, "librarian")])
def test_without_an_assistant_another_reference_or_the_source_speaks_the_fixed_answers(
    kept: int, speaker: str
) -> None:
    settings = stages(pair(personas=PERSONAS[:kept]))["states/base"].settings
    assert isinstance(settings, StatesSettings) and settings.fixed_persona == speaker


def test_an_adapter_is_merged_into_the_base() -> None:
    treated = stages(pair(treated=None, adapter=TREATED))["checkpoint/treated"]
    assert treated.kind == "merge"
    assert treated.inputs["checkpoint"].name == "checkpoint/base"


def test_planning_a_comparison_imports_no_model_library() -> None:
    code = (
        "import sys, flatprobe.cli.geometry, flatprobe.plan.comparison, flatprobe.study.checks.compatibility\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
