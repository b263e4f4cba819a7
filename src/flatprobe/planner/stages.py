"""Makes the single stages of a study: the kind, the settings and the inputs of each.

The order of stages is in :mod:`flatprobe.planner.plan`, the stages of couplings in
:mod:`flatprobe.planner.coupling_stages`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flatprobe.pipeline.stage import CPU, Resources, Settings, Stage
from flatprobe.planner.contracts import (
    CheckpointSettings,
    FinetuneDataSettings,
    FinetuneSettings,
    ImitationSettings,
    ManipulationSettings,
    MergeSettings,
    SampleSettings,
    StatesSettings,
)
from flatprobe.planner.kinds import FORMER_KINDS, KINDS
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Coupling
from flatprobe.study.resolve import Resolved

MODEL = Resources(kind="gpu", affinity="checkpoint")
NEUTRAL = "assistant"
"""The persona whose answers are the fixed responses, if it is a reference."""


@dataclass(frozen=True)
class Arm:
    """One condition under one seed: its checkpoint and the answers sampled before coupling."""

    condition: str
    seed: int
    tag: str
    """Part of its stages' names. Contains the seed if the checkpoint depends on it."""
    checkpoint: Stage
    own: Stage
    """Greedy answers to the evaluation questions."""
    answers: Mapping[str, Stage]
    """Role (source, negative) to sampled answers to the coupling questions; empty without a coupling."""
    training_seed: int
    """Seed of its finetune and coupling: `seed` plus the condition's `seed_offset`."""


def stage(name: str, kind: str, settings: Settings, resources: Resources = CPU, /, **inputs: Stage) -> Stage:
    """A stage of one of the kinds in `KINDS`."""
    function, version = KINDS[kind]
    return Stage(
        name=name,
        function=function,
        settings=settings,
        inputs=inputs,
        version=version,
        resources=resources,
        kind=kind,
        former_kind=f"flatprobe.{FORMER_KINDS[kind]}",
    )


class StudyStages:
    """Makes the stages of one study up to the couplings, and all sampling stages."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved, self.study = resolved, resolved.study
        self.questions = resolved.questions
        self.trained = resolved.role("source", "negative")
        self.base = stage("checkpoint/model", "checkpoint", CheckpointSettings(reference=resolved.model))

    @property
    def coupling(self) -> Coupling:
        """The coupling's recipe, in a study that has one."""
        assert self.study.coupling is not None, "a study without a coupling has no such stage"
        return self.study.coupling

    def finetune_data(self, condition: str, length_reference: Stage | None) -> Stage:
        """Training rows of a condition, from the commit that its dataset was resolved to."""
        data = self.study.conditions[condition].finetune
        assert data is not None
        revision = self.resolved.dataset_revisions.get(condition, data.revision)
        settings = FinetuneDataSettings(
            data=data.model_copy(update={"revision": revision}),
            fingerprint=self.resolved.fingerprints.get(data.path or ""),
            max_length=self.study.finetune.max_length,
        )
        inputs = {"checkpoint": self.base}
        if length_reference is not None:
            inputs["length_reference"] = length_reference
        return stage(f"finetune-data/{condition}", "finetune_data", settings, **inputs)

    def imitation_data(self, condition: str, control: Arm) -> Stage:
        """Training rows in which personas give one persona's answers. Held-out pairs use greedy answers."""
        data, personas = self.study.conditions[condition].finetune, self.resolved.personas
        assert data is not None and data.imitate is not None
        imitation, checkpoint = data.imitate, control.checkpoint
        limit = self.coupling.max_new_tokens
        calibration = self.questions["calibration"][: self.coupling.telemetry_questions]
        imitators = imitation.imitators or tuple(persona.name for persona in personas)
        imitated = [persona for persona in personas if persona.name == imitation.persona]
        others = [p for p in personas if p.name not in imitators and p not in imitated]
        settings = ImitationSettings(
            imitated=imitation.persona,
            imitators=imitators,
            personas=personas,
            questions=self.questions["coupling"],
            calibration=calibration,
            marker=self.study.leakage.marker,
            rows=data.rows,
            held_out=data.held_out,
            max_length=self.study.finetune.max_length,
        )

        def answers(name: str, speakers: Sequence[Persona]) -> Stage:
            questions, samples = self.questions["coupling"], imitation.samples
            return self.sample(name, checkpoint, speakers, questions, samples=samples, max_new_tokens=limit)

        name = f"imitated/{control.tag}/{imitation.persona}"
        inputs = {"checkpoint": self.base, "answers": answers(name, imitated)}
        if others:
            inputs["others"] = answers(f"rehearsed/{control.tag}/{condition}", others)
        if data.held_out:
            inputs["imitated"] = self.sample(
                f"{name}/greedy", checkpoint, imitated, calibration, samples=1, max_new_tokens=limit, temperature=0.0
            )
            inputs["own"] = self.telemetry(control)
        return stage(f"finetune-data/{condition}", "imitation_data", settings, **inputs)

    def finetune(self, condition: str, tag: str, seed: int, data: Stage) -> Stage:
        """The adapter of a finetuned condition."""
        rows = self.study.conditions[condition].finetune
        match = "answers" if rows is None or rows.imitate is None else rows.imitate.match
        settings = FinetuneSettings(recipe=self.study.finetune, seed=seed, match=match)
        return stage(f"finetune/{tag}", "finetune", settings, MODEL, checkpoint=self.base, data=data)

    def merged(self, tag: str, adapter: Stage) -> Stage:
        """The checkpoint of a finetuned condition."""
        settings = MergeSettings(dtype=self.study.model.dtype, given=None)
        inputs = {"checkpoint": self.base, "adapter": adapter}
        return stage(f"checkpoint/{tag}", "merge", settings, MODEL, **inputs)

    def given(self, condition: str) -> Stage:
        """The checkpoint of a condition without finetune: a given one, a merged given adapter, or the study's model."""
        reference = self.resolved.given.get(condition)
        if reference is None:
            return self.base
        if self.study.conditions[condition].adapter is not None:
            merge = MergeSettings(dtype=self.study.model.dtype, given=reference)
            return stage(f"checkpoint/{condition}", "merge", merge, MODEL, checkpoint=self.base)
        use = CheckpointSettings(reference=reference)
        return stage(f"checkpoint/{condition}", "checkpoint", use)

    def arm(self, condition: str, seed: int, tag: str, checkpoint: Stage) -> Arm:
        """The arm with its greedy answers for geometry and its sampled answers for the coupling."""
        own = self.sample(
            f"own/{tag}",
            checkpoint,
            self.resolved.personas,
            self.questions["evaluation"],
            samples=1,
            max_new_tokens=self.study.geometry.max_new_tokens,
            temperature=0.0,
        )
        return Arm(
            condition=condition,
            seed=seed,
            tag=tag,
            checkpoint=checkpoint,
            own=own,
            answers={} if self.study.coupling is None else self._coupling_answers(tag, checkpoint),
            training_seed=self.training_seed(condition, seed),
        )

    def _coupling_answers(self, tag: str, checkpoint: Stage) -> dict[str, Stage]:
        """Sampled answers to the coupling questions, by role."""
        coupling, questions = self.coupling, self.questions["coupling"]
        sizes = {"source": coupling.positives, "negative": coupling.negatives_per_persona}
        return {
            role: self.sample(
                f"answers/{tag}/{role}",
                checkpoint,
                self.resolved.role(role),
                questions,
                samples=math.ceil(coupling.length_match.surplus * size / len(questions)),
                max_new_tokens=coupling.max_new_tokens,
            )
            for role, size in sizes.items()
        }

    def training_seed(self, condition: str, seed: int) -> int:
        """The seed of a condition's training under a seed of the study."""
        return seed + self.study.conditions[condition].seed_offset

    def states(self, arm: Arm, control: Arm) -> Stage:
        """The arm's hidden states on its own answers and on the control's fixed ones."""
        geometry = self.study.geometry
        settings = StatesSettings(
            personas=self.resolved.personas,
            questions=self.questions["evaluation"],
            layers=geometry.layers,
            positions=geometry.positions,
            precision=self.study.model.dtype,
            fixed_persona=self._fixed_persona(),
        )
        inputs = {"checkpoint": arm.checkpoint, "own": self.probed(arm), "fixed": control.own}
        return stage(f"states/{arm.tag}", "states", settings, MODEL, **inputs)

    def probed(self, arm: Arm) -> Stage:
        """The own answers whose states are read: the greedy ones, or several sampled ones.

        All arms sample from the same random streams, so that equal checkpoints give equal answers.
        """
        geometry = self.study.geometry
        if geometry.samples == 1:
            return arm.own
        return self.sample(
            f"own-samples/{arm.tag}",
            arm.checkpoint,
            self.resolved.personas,
            self.questions["evaluation"],
            samples=geometry.samples,
            max_new_tokens=geometry.max_new_tokens,
            stream=f"{self.study.seeds[0]}/geometry",
        )

    def _fixed_persona(self) -> str:
        references = [persona.name for persona in self.resolved.role("reference")]
        if NEUTRAL in references:
            return NEUTRAL
        return references[0] if references else self.study.panel.source

    def manipulation(self, arm: Arm, control: Arm, held_out: Mapping[str, Stage]) -> Stage:
        """Scores of the same fixed texts under every checkpoint. `held_out`: condition to its finetune's data."""
        study = self.study
        triples = None if study.manipulation is None else self.resolved.fingerprints[study.manipulation]
        settings = ManipulationSettings(
            personas=self.resolved.role("source", "reference"),
            questions=self.questions["evaluation"],
            precision=study.leakage.precision,
            out_of_domain=triples,
        )
        inputs = {"checkpoint": arm.checkpoint, "answers": control.own}
        inputs |= {f"{condition}/held_out": data for condition, data in held_out.items()}
        return stage(f"manipulation/{arm.tag}", "manipulation", settings, MODEL, **inputs)

    def telemetry(self, arm: Arm) -> Stage:
        """Greedy answers to calibration questions, on which the marker's log-probability is read during training."""
        return self.sample(
            f"telemetry/{arm.tag}",
            arm.checkpoint,
            (*self.trained, *self.resolved.role("bystander")),
            self.questions["calibration"][: self.coupling.telemetry_questions],
            samples=1,
            max_new_tokens=self.coupling.max_new_tokens,
            temperature=0.0,
        )

    def sample(
        self,
        name: str,
        checkpoint: Stage,
        personas: Sequence[Persona],
        questions: Sequence[Question],
        *,
        samples: int,
        max_new_tokens: int,
        temperature: float | None = None,
        adapter: Stage | None = None,
        parity: int = 0,
        seed: int | None = None,
        stop_at: str | None = None,
        stream: str | None = None,
    ) -> Stage:
        """A sampling stage.

        Its random streams are named after its seed and name, so that no two stages share streams unless `stream` says
        so. Greedy answers use no stream, so that two conditions with one checkpoint share them.
        """
        leakage = self.study.leakage
        if temperature == 0.0:
            stream = "greedy"
        elif stream is None:
            stream = f"{self.study.seeds[0] if seed is None else seed}/{name}"
        settings = SampleSettings(
            personas=tuple(personas),
            questions=tuple(questions),
            samples=samples,
            max_new_tokens=max_new_tokens,
            temperature=leakage.temperature if temperature is None else temperature,
            top_p=leakage.top_p,
            precision=leakage.precision,
            seed=stream,
            stop_at=stop_at,
            parity_prompts=parity,
        )
        inputs = {"checkpoint": checkpoint} | ({"adapter": adapter} if adapter else {})
        return stage(name, "sample", settings, MODEL, **inputs)
