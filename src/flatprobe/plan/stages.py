"""The stages of a study one by one: which function, what it is told, and which artifacts it is given.

Nothing here knows what comes after what; that is :mod:`flatprobe.plan.plan`. Those of the couplings are in
:mod:`flatprobe.plan.coupling_stages`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flatprobe.pipeline.stage import CPU, Resources, Settings, Stage
from flatprobe.plan.contracts import (
    CheckpointSettings,
    FinetuneDataSettings,
    FinetuneSettings,
    ImitationSettings,
    ManipulationSettings,
    MergeSettings,
    SampleSettings,
    StatesSettings,
)  # fmt: skip
from flatprobe.plan.kinds import FORMER_KINDS, KINDS
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.recipe_schema import Coupling
from flatprobe.study.resolve import Resolved

MODEL = Resources(kind="gpu")
NEUTRAL = "assistant"  # whose answers are the fixed responses, where it is a reference


@dataclass(frozen=True)
class Arm:
    """One condition's checkpoint under one seed, and what is asked of it before coupling."""

    condition: str
    seed: int
    tag: str  # names its stages: with the seed where the checkpoint depends on it
    checkpoint: Stage
    own: Stage
    answers: Mapping[str, Stage]
    training_seed: int
    """Of its finetune and coupling; other than `seed` in a condition that trains another's recipe again."""


def stage(name: str, kind: str, settings: Settings, resources: Resources = CPU, /, **inputs: Stage) -> Stage:
    """A stage of one of the package's kinds."""
    function, version = KINDS[kind]
    former = f"flatprobe.{FORMER_KINDS[kind]}"
    return Stage(name, function, settings, inputs, version, resources, kind, former)


class Parts:
    """Makes the stages of one study up to the couplings, and sampling stages of all kinds."""

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

    # --- before coupling

    def finetune_data(self, name: str, length_reference: Stage | None) -> Stage:
        """Rows of a condition, from the very commit that its dataset was resolved to."""
        data = self.study.conditions[name].finetune
        assert data is not None
        revision = self.resolved.dataset_revisions.get(name, data.revision)
        settings = FinetuneDataSettings(
            data=data.model_copy(update={"revision": revision}),
            fingerprint=self.resolved.fingerprints.get(data.path or ""),
            max_length=self.study.finetune.max_length,
        )
        inputs = {"checkpoint": self.base}
        if length_reference is not None:
            inputs["length_reference"] = length_reference
        return stage(f"finetune-data/{name}", "finetune_data", settings, **inputs)

    def imitation_data(self, name: str, control: Arm) -> Stage:
        """Rows in which personas answer as one; the control's greedy answers as each are what is held out."""
        data, personas = self.study.conditions[name].finetune, self.resolved.personas
        assert data is not None and data.imitate is not None
        imitators = data.imitate.imitators or tuple(persona.name for persona in personas)
        imitated = [persona for persona in personas if persona.name == data.imitate.persona]
        others = [
            persona for persona in personas if persona.name not in imitators and persona not in imitated
        ]
        calibration = self.questions["calibration"][: self.coupling.telemetry_questions]
        settings = ImitationSettings(
            imitated=data.imitate.persona, imitators=imitators, personas=personas, questions=self.questions["coupling"],
            calibration=calibration, marker=self.study.leakage.marker, rows=data.rows, held_out=data.held_out,
            max_length=self.study.finetune.max_length,
        )  # fmt: skip
        prefix, limit = f"imitated/{control.tag}/{data.imitate.persona}", self.coupling.max_new_tokens
        asked = self.questions["coupling"]
        inputs = {
            "checkpoint": self.base,
            "answers": self.sample(prefix, control.checkpoint, imitated, asked, data.imitate.samples, limit),
        }
        if others:
            rehearsed = f"rehearsed/{control.tag}/{name}"
            inputs["others"] = self.sample(
                rehearsed, control.checkpoint, others, asked, data.imitate.samples, limit
            )
        if data.held_out:
            greedy = self.sample(
                f"{prefix}/greedy", control.checkpoint, imitated, calibration, 1, limit, temperature=0.0
            )
            inputs |= {"imitated": greedy, "own": self.telemetry(control)}
        return stage(f"finetune-data/{name}", "imitation_data", settings, **inputs)

    def finetune(self, name: str, tag: str, seed: int, data: Stage) -> Stage:
        rows = self.study.conditions[name].finetune
        match = "answers" if rows is None or rows.imitate is None else rows.imitate.match
        settings = FinetuneSettings(recipe=self.study.finetune, seed=seed, match=match)
        return stage(f"finetune/{tag}", "finetune", settings, MODEL, checkpoint=self.base, data=data)

    def merged(self, tag: str, adapter: Stage) -> Stage:
        settings = MergeSettings(dtype=self.study.model.dtype, given=None)
        return stage(
            f"checkpoint/{tag}",
            "merge",
            settings,
            MODEL,
            checkpoint=self.base,
            adapter=adapter,
        )

    def given(self, name: str) -> Stage:
        """The checkpoint of a condition that is not finetuned here: given, from a given adapter, or the model's."""
        reference = self.resolved.given.get(name)
        if reference is None:
            return self.base
        if self.study.conditions[name].adapter is not None:
            merge = MergeSettings(dtype=self.study.model.dtype, given=reference)
            return stage(f"checkpoint/{name}", "merge", merge, MODEL, checkpoint=self.base)
        use = CheckpointSettings(reference=reference)
        return stage(f"checkpoint/{name}", "checkpoint", use)

    def arm(self, name: str, seed: int, tag: str, checkpoint: Stage) -> Arm:
        """The checkpoint with its greedy answers for geometry and its sampled ones for the coupling."""
        own = self.sample(
            f"own/{tag}", checkpoint, self.resolved.personas, self.questions["evaluation"], 1,
            self.study.geometry.max_new_tokens, temperature=0.0,
        )  # fmt: skip
        answers = {} if self.study.coupling is None else self._coupling_answers(tag, checkpoint)
        return Arm(name, seed, tag, checkpoint, own, answers, self.training_seed(name, seed))

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
                math.ceil(coupling.length_match.surplus * size / len(questions)),
                coupling.max_new_tokens,
            )
            for role, size in sizes.items()
        }

    def training_seed(self, name: str, seed: int) -> int:
        """The seed that a condition is trained with where the study's is `seed`."""
        return seed + self.study.conditions[name].seed_offset

    def states(self, arm: Arm, control: Arm) -> Stage:
        geometry = self.study.geometry
        settings = StatesSettings(
            personas=self.resolved.personas, questions=self.questions["evaluation"], layers=geometry.layers,
            positions=geometry.positions, precision=self.study.model.dtype, fixed_persona=self._fixed_persona(),
        )  # fmt: skip
        return stage(
            f"states/{arm.tag}", "states", settings, MODEL,
            checkpoint=arm.checkpoint, own=self.probed(arm), fixed=control.own,
        )  # fmt: skip

    def probed(self, arm: Arm) -> Stage:
        """The own answers whose states are read: the greedy ones, or several sampled ones; all arms draw from the same
        random streams, so that equal checkpoints answer alike."""
        geometry = self.study.geometry
        if geometry.samples == 1:
            return arm.own
        return self.sample(
            f"own-samples/{arm.tag}", arm.checkpoint, self.resolved.personas, self.questions["evaluation"],
            geometry.samples, geometry.max_new_tokens, stream=f"{self.study.seeds[0]}/geometry",
        )  # fmt: skip

    def _fixed_persona(self) -> str:
        references = [persona.name for persona in self.resolved.role("reference")]
        if NEUTRAL in references or not references:
            return NEUTRAL if references else self.study.panel.source
        return references[0]

    def manipulation(self, arm: Arm, control: Arm, held_out: Mapping[str, Stage]) -> Stage:
        """The same fixed texts under every checkpoint; `held_out` has the finetunes' data by condition."""
        study = self.study
        settings = ManipulationSettings(
            personas=self.resolved.role("source", "reference"), questions=self.questions["evaluation"],
            precision=study.leakage.precision,
            out_of_domain=None if study.manipulation is None else self.resolved.fingerprints[study.manipulation],
        )  # fmt: skip
        inputs = {"checkpoint": arm.checkpoint, "answers": control.own}
        inputs |= {f"{name}/held_out": data for name, data in held_out.items()}
        return stage(f"manipulation/{arm.tag}", "manipulation", settings, MODEL, **inputs)

    def telemetry(self, arm: Arm) -> Stage:
        coupling = self.coupling
        questions = self.questions["calibration"][: coupling.telemetry_questions]
        return self.sample(
            f"telemetry/{arm.tag}", arm.checkpoint, (*self.trained, *self.resolved.role("bystander")), questions, 1,
            coupling.max_new_tokens,
            temperature=0.0,
        )  # fmt: skip

    def sample(
        self, name: str, checkpoint: Stage, personas: Sequence[Persona], questions: Sequence[Question],
        samples: int, max_new_tokens: int, *, temperature: float | None = None, adapter: Stage | None = None,
        parity: int = 0, seed: int | None = None, stop_at: str | None = None, stream: str | None = None,
    ) -> Stage:  # fmt: skip
        """A sampling stage; its random streams are named after what it is, so no two stages share one unless told to.

        Greedy answers have none, so that two conditions of one checkpoint share them.
        """
        leakage = self.study.leakage
        if stream is None:
            stream = (
                "greedy" if temperature == 0.0 else f"{self.study.seeds[0] if seed is None else seed}/{name}"
            )
        settings = SampleSettings(
            personas=tuple(personas), questions=tuple(questions), samples=samples, max_new_tokens=max_new_tokens,
            temperature=leakage.temperature if temperature is None else temperature, top_p=leakage.top_p,
            precision=leakage.precision, seed=stream,
            stop_at=stop_at, parity_prompts=parity,
        )  # fmt: skip
        inputs = {"checkpoint": checkpoint} | ({"adapter": adapter} if adapter else {})
        return stage(name, "sample", settings, MODEL, **inputs)
