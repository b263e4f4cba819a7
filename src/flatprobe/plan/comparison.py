"""The stages of a comparison of two checkpoints: those of a study's geometric probe, without coupling or verdict."""

from __future__ import annotations

from dataclasses import dataclass

from flatprobe.pipeline.stage import Stage
from flatprobe.plan.contracts import (
    CheckpointSettings,
    MergeSettings,
    PairSettings,
    SampleSettings,
    StatesSettings,
)
from flatprobe.plan.stages import MODEL, NEUTRAL, stage
from flatprobe.study.pair import Pair
from flatprobe.study.panel import Persona
from flatprobe.study.schema import Geometry, Leakage


@dataclass(frozen=True)
class PairPlan:
    """The stages whose artifacts are looked at."""

    base_states: Stage
    treated_states: Stage
    geometry: Stage
    """Needs everything else."""


def plan_pair(pair: Pair) -> PairPlan:
    """The stages of a comparison, base first, so that its headroom is known before the other model is loaded."""
    return _Planner(pair).plan()


class _Planner:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def plan(self) -> PairPlan:
        pair, sides = self.pair, self._checkpoints()
        own = {name: self._own(name, checkpoint) for name, checkpoint in sides.items()}
        fixed = own["base"] if pair.samples == 1 else self._fixed(sides["base"])
        states = {name: self._states(name, sides[name], own[name], fixed) for name in sides}
        settings = PairSettings(
            source=pair.source, bystanders=pair.bystanders, responses=pair.responses, level=pair.level,
            resamples=pair.resamples, reliability_splits=Geometry().reliability_splits, seed=pair.seed,
        )  # fmt: skip
        geometry = stage("geometry", "compare", settings, **states)
        return PairPlan(states["base"], states["treated"], geometry)

    def _checkpoints(self) -> dict[str, Stage]:
        pair, use = self.pair, "checkpoint"
        base = stage("checkpoint/base", use, CheckpointSettings(reference=pair.base))
        if pair.adapter is not None:
            merge = MergeSettings(dtype=pair.precision, given=pair.adapter)
            treated = stage("checkpoint/treated", "merge", merge, MODEL, checkpoint=base)
        else:
            assert pair.treated is not None, "a pair has a second checkpoint or an adapter"
            treated = stage("checkpoint/treated", use, CheckpointSettings(reference=pair.treated))
        return {"base": base, "treated": treated}

    def _own(self, name: str, checkpoint: Stage) -> Stage:
        return self._sample(f"own/{name}", checkpoint, self.pair.personas, self.pair.samples)

    def _fixed(self, base: Stage) -> Stage:
        """One neutral answer to every question, where the base's own answers are sampled ones."""
        speaker = [persona for persona in self.pair.personas if persona.name == self._fixed_persona()]
        return self._sample("fixed", base, tuple(speaker), 1)

    def _sample(self, name: str, checkpoint: Stage, personas: tuple[Persona, ...], samples: int) -> Stage:
        """Both checkpoints draw from the same random streams, so that equal ones answer alike."""
        pair, leakage = self.pair, Leakage()
        settings = SampleSettings(
            personas=personas, questions=pair.questions, samples=samples, max_new_tokens=pair.max_new_tokens,
            temperature=0.0 if samples == 1 else leakage.temperature, top_p=leakage.top_p,
            precision=pair.precision, seed=f"{pair.seed}/geometry", stop_at=None, parity_prompts=0,
        )  # fmt: skip
        return stage(name, "sample", settings, MODEL, checkpoint=checkpoint)

    def _states(self, name: str, checkpoint: Stage, own: Stage, fixed: Stage) -> Stage:
        pair = self.pair
        settings = StatesSettings(
            personas=pair.personas, questions=pair.questions, layers=pair.layers, positions=pair.positions,
            precision=pair.precision, fixed_persona=self._fixed_persona(),
        )  # fmt: skip
        inputs = {"checkpoint": checkpoint, "own": own, "fixed": fixed}
        return stage(f"states/{name}", "states", settings, MODEL, **inputs)

    def _fixed_persona(self) -> str:
        """Who speaks the fixed responses: the assistant, else another reference, else the source."""
        references = [persona.name for persona in self.pair.personas if persona.role == "reference"]
        return NEUTRAL if NEUTRAL in references else next(iter(references), self.pair.source)
