"""The order of the science: from a study to its stages. The one file that knows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flatprobe.analysis.settings import (
    DecideSettings,
    Entry,
    EstimateSettings,
    GatherSettings,
    Kind,
    Registered,
)  # fmt: skip
from flatprobe.pipeline.settings import (
    CheckpointSettings,
    CoupleSettings,
    CouplingDataSettings,
    FinetuneDataSettings,
    FinetuneSettings,
    ManipulationSettings,
    MergeSettings,
    SampleSettings,
    SelectSettings,
    StatesSettings,
)  # fmt: skip
from flatprobe.pipeline.stage import CPU, Resources, Settings, Stage
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.study.resolve import Resolved

MODEL = Resources(kind="gpu")
PARITY_PROMPTS = 2  # prompts on which a sampling stage checks its engine against `generate`


@dataclass(frozen=True)
class Plan:
    """All stages of a study; `verdict` needs everything else."""

    tables: Stage
    estimates: Stage
    verdict: Stage


@dataclass(frozen=True)
class _Arm:
    """One condition's checkpoint under one seed, and what is asked of it before coupling."""

    condition: str
    seed: int
    tag: str  # names its stages: with the seed where the checkpoint depends on it
    checkpoint: Stage
    own: Stage
    answers: Mapping[str, Stage]


def plan(resolved: Resolved, registered: Registered) -> Plan:
    """The stages of a study. Nothing is run, and no model library is imported."""
    return _Planner(resolved).plan(registered)


class _Planner:
    def __init__(self, resolved: Resolved) -> None:
        self.resolved, self.study = resolved, resolved.study
        self.questions = resolved.questions
        self.trained = resolved.role("source", "negative")
        self.entries: list[Entry] = []
        self.inputs: dict[str, Stage] = {}
        settings = CheckpointSettings(reference=resolved.model)
        self.base = _stage("checkpoint/model", "models.stages:use_checkpoint", settings)
        self.data: dict[str, Stage] = {}

    def plan(self, registered: Registered) -> Plan:
        study, rule = self.study, self.study.decision
        order = [rule.control, *(name for name in study.conditions if name != rule.control)]
        arms = [self._arm(name, seed) for seed in study.seeds for name in order]
        control = arms[0]
        for arm in _once(arms):
            self._states(arm, control)
            self._manipulation(arm, control)
            self._enter("baseline", arm.condition, self._leakage(arm, None), seed=arm.seed)
        data = {
            seed: self._coupling_data([arm for arm in arms if arm.seed == seed], control, seed)
            for seed in study.seeds
        }
        telemetry = {arm.tag: self._telemetry(arm) for arm in arms}
        selection = self._select(control, data[control.seed], telemetry[control.tag])
        for arm in arms:
            for lambda_ in self._lambdas(arm, control):
                couple = self._couple(arm, lambda_, data[arm.seed], telemetry[arm.tag], selection)
                role = self._enter("couple", arm.condition, couple, seed=arm.seed)
                self._enter("leakage", arm.condition, self._leakage(arm, couple), role, arm.seed)
        return self._analysis(selection, registered)

    # --- before coupling

    def _finetune_data(self, name: str) -> Stage:
        """Rows of a condition; those of the set whose lengths they follow are prepared first."""
        data = self.study.conditions[name].finetune
        assert data is not None
        if name not in self.data:
            inputs = {"checkpoint": self.base}
            if data.length_match is not None:
                inputs["length_reference"] = self._finetune_data(data.length_match)
            settings = FinetuneDataSettings(
                data=data, fingerprint=self.resolved.fingerprints.get(data.path or ""),
                max_length=self.study.finetune.max_length,
            )  # fmt: skip
            self.data[name] = _stage(f"finetune-data/{name}", "data.finetuning:prepare", settings, **inputs)
            self._enter("finetune_data", name, self.data[name])
        return self.data[name]

    def _checkpoint(self, name: str, seed: int) -> tuple[str, Stage]:
        """A condition's checkpoint and the tag of all that is made from it."""
        condition, given = self.study.conditions[name], self.resolved.given.get(name)
        dtype = self.study.model.dtype
        if condition.finetune is not None:
            tag = f"{name}/seed-{seed}"
            finetune = _stage(
                f"finetune/{tag}", "training.finetune:finetune",
                FinetuneSettings(recipe=self.study.finetune, seed=seed),
                MODEL, checkpoint=self.base, data=self._finetune_data(name),
            )  # fmt: skip
            self._enter("finetune", name, finetune, seed=seed)
            settings = MergeSettings(dtype=dtype, given=None)
            return tag, _stage(
                f"checkpoint/{tag}", "training.merge:merge", settings, MODEL,
                checkpoint=self.base, adapter=finetune,
            )  # fmt: skip
        if given is not None and condition.adapter is not None:
            settings = MergeSettings(dtype=dtype, given=given)
            return name, _stage(
                f"checkpoint/{name}", "training.merge:merge", settings, MODEL, checkpoint=self.base
            )
        if given is not None:
            return name, _stage(
                f"checkpoint/{name}", "models.stages:use_checkpoint", CheckpointSettings(reference=given)
            )
        return name, self.base

    def _arm(self, name: str, seed: int) -> _Arm:
        tag, checkpoint = self._checkpoint(name, seed)
        study, coupling = self.study, self.study.coupling
        own = self._sample(
            f"own/{tag}", checkpoint, self.resolved.personas, self.questions["evaluation"], 1,
            study.geometry.max_new_tokens, temperature=0.0,
        )  # fmt: skip
        wanted = {"source": coupling.positives, "negative": coupling.negatives_per_persona}
        asked = self.questions["coupling"]
        answers = {
            role: self._sample(
                f"answers/{tag}/{role}", checkpoint, self.resolved.role(role), asked,
                math.ceil(coupling.length_match.surplus * size / len(asked)), coupling.max_new_tokens,
            )
            for role, size in wanted.items()
        }  # fmt: skip
        arm = _Arm(name, seed, tag, checkpoint, own, answers)
        self._enter("checkpoint", name, checkpoint, seed=seed)
        self._enter("own", name, own, seed=seed)
        return arm

    def _states(self, arm: _Arm, control: _Arm) -> None:
        geometry = self.study.geometry
        references = [persona.name for persona in self.resolved.role("reference")]
        settings = StatesSettings(
            personas=self.resolved.personas, questions=self.questions["evaluation"], layers=geometry.layers,
            positions=geometry.positions, precision=self.study.model.dtype,
            fixed_persona=references[0] if references else self.study.panel.source,
        )  # fmt: skip
        states = _stage(
            f"states/{arm.tag}", "probes.geometry:capture", settings, MODEL,
            checkpoint=arm.checkpoint, own=arm.own, fixed=control.own,
        )  # fmt: skip
        self._enter("states", arm.condition, states, seed=arm.seed)

    def _manipulation(self, arm: _Arm, control: _Arm) -> None:
        """The same fixed texts under every checkpoint; in-domain ones are held out from the treated finetune."""
        study = self.study
        out = study.manipulation
        if out is not None and not out.startswith("embedded:"):
            out = self.resolved.fingerprints[out]
        settings = ManipulationSettings(
            personas=self.resolved.role("source", "reference"), questions=self.questions["evaluation"],
            precision=study.leakage.precision, out_of_domain=out,
        )  # fmt: skip
        inputs = {"checkpoint": arm.checkpoint, "answers": control.own}
        treated = study.conditions[study.decision.treated].finetune
        if treated is not None and treated.held_out:
            inputs["triples"] = self.data[study.decision.treated]
        stage = _stage(f"manipulation/{arm.tag}", "probes.manipulation:check", settings, MODEL, **inputs)
        self._enter("manipulation", arm.condition, stage, seed=arm.seed)

    # --- coupling and leakage

    def _coupling_data(self, arms: Sequence[_Arm], control: _Arm, seed: int) -> Stage:
        """The one join: every condition's answers, or the control's under every condition's name."""
        own, coupling = self.study.coupling.generator == "own", self.study.coupling
        inputs = {
            f"{arm.condition}/{role}": stage
            for arm in arms
            for role, stage in (arm if own else control).answers.items()
        }
        settings = CouplingDataSettings(
            source=self.study.panel.source, marker=self.study.leakage.marker, positives=coupling.positives,
            negatives_per_persona=coupling.negatives_per_persona,
        )  # fmt: skip
        stage = _stage(f"coupling-data/seed-{seed}", "data.stages:build", settings, **inputs)
        self._enter("coupling_data", None, stage, seed=seed)
        return stage

    def _telemetry(self, arm: _Arm) -> Stage:
        coupling = self.study.coupling
        questions = self.questions["calibration"][: coupling.telemetry_questions]
        return self._sample(
            f"telemetry/{arm.tag}", arm.checkpoint, self.trained, questions, 1, coupling.max_new_tokens,
            temperature=0.0,
        )  # fmt: skip

    def _lambdas(self, arm: _Arm, control: _Arm) -> Sequence[float | None]:
        """The weights trained on an arm; None stands for the selected one."""
        unlikelihood = self.study.coupling.unlikelihood
        sweeps = unlikelihood.sweep == "all_conditions" or arm.tag == control.tag
        return unlikelihood.lambdas if sweeps else (None,)

    def _couple(
        self, arm: _Arm, lambda_: float | None, data: Stage, telemetry: Stage, selection: Stage | None
    ) -> Stage:
        coupling = self.study.coupling
        settings = CoupleSettings(
            recipe=coupling, condition=arm.condition, marker=self.study.leakage.marker, lambda_=lambda_,
            seed=arm.seed, personas=self.trained, questions=self.questions["coupling"],
            calibration=self.questions["calibration"][: coupling.telemetry_questions],
        )  # fmt: skip
        inputs = {"checkpoint": arm.checkpoint, "examples": data, "telemetry": telemetry}
        if lambda_ is None:
            assert selection is not None, "the control is trained with every lambda"
            inputs["selection"] = selection
        name = f"couple/{arm.condition}/{_lambda_name(lambda_)}/seed-{arm.seed}"
        return _stage(name, "training.couple:couple", settings, MODEL, **inputs)

    def _select(self, control: _Arm, data: Stage, telemetry: Stage) -> Stage:
        """Lambda by the control's completions on calibration questions, source and negatives only."""
        coupling = self.study.coupling
        lambdas = coupling.unlikelihood.lambdas
        calibrations = {
            f"lambda-{index}": self._sample(
                f"calibrate/{control.condition}/{_lambda_name(lambda_)}", control.checkpoint, self.trained,
                self.questions["calibration"], coupling.calibration_samples, self.study.leakage.max_new_tokens,
                adapter=self._couple(control, lambda_, data, telemetry, None),
            )
            for index, lambda_ in enumerate(lambdas)
        }  # fmt: skip
        settings = SelectSettings(
            source=self.study.panel.source, marker=self.study.leakage.marker, lambdas=lambdas
        )
        stage = _stage("select-lambda", "probes.leakage:select_lambda", settings, **calibrations)
        self._enter("selection", None, stage)
        return stage

    def _leakage(self, arm: _Arm, couple: Stage | None) -> Stage:
        """Completions on evaluation questions; without a coupling, the false-positive baseline."""
        leakage = self.study.leakage
        name = f"baseline/{arm.tag}" if couple is None else couple.name.replace("couple/", "leakage/", 1)
        return self._sample(
            name, arm.checkpoint, self.resolved.personas, self.questions["evaluation"],
            leakage.baseline_samples if couple is None else leakage.samples, leakage.max_new_tokens,
            adapter=couple, parity=PARITY_PROMPTS, seed=arm.seed,
        )  # fmt: skip

    # --- analysis

    def _analysis(self, selection: Stage, registered: Registered) -> Plan:
        study, personas = self.study, self.resolved.personas
        bystanders = tuple(persona.name for persona in self.resolved.role("bystander"))
        gather = GatherSettings(
            marker=study.leakage.marker,
            personas=personas,
            questions=dict(self.questions),
            entries=tuple(self.entries),
        )
        tables = _stage("tables", "analysis.gather:gather", gather, **self.inputs)
        states = {e.role: self.inputs[e.role] for e in self.entries if e.kind == "states"}
        estimate = EstimateSettings(
            rule=study.decision, source=study.panel.source, bystanders=bystanders, pools=study.panel.pools,
            trained=tuple(persona.name for persona in self.trained), geometry_resamples=study.geometry.resamples,
            seed=study.seeds[0], entries=tuple(entry for entry in self.entries if entry.kind == "states"),
        )  # fmt: skip
        estimates = _stage("estimates", "analysis.estimate:estimate", estimate, tables=tables, **states)
        decide = DecideSettings(
            rule=study.decision, source=study.panel.source, bystanders=bystanders, registered=registered,
            smoke=study.smoke, finetuned=tuple(n for n, c in study.conditions.items() if c.finetune or c.adapter),
        )  # fmt: skip
        verdict = _stage(
            "verdict", "analysis.decide:decide_study", decide, tables=tables, estimates=estimates
        )
        return Plan(tables, estimates, verdict)

    # --- helpers

    def _enter(
        self,
        kind: Kind,
        condition: str | None,
        stage: Stage,
        couple: str | None = None,
        seed: int | None = None,
    ) -> str:
        """Make a stage an input of the analysis; returns its role there."""
        role = stage.name
        if role not in self.inputs:
            self.inputs[role] = stage
        self.entries.append(Entry(role=role, kind=kind, condition=condition, seed=seed, couple=couple))
        return role

    def _sample(
        self, name: str, checkpoint: Stage, personas: Sequence[Persona], questions: Sequence[Question],
        samples: int, max_new_tokens: int, *, temperature: float | None = None, adapter: Stage | None = None,
        parity: int = 0, seed: int | None = None,
    ) -> Stage:  # fmt: skip
        """A sampling stage; its random streams are named after what it is, so no two stages share one."""
        leakage = self.study.leakage
        settings = SampleSettings(
            personas=tuple(personas), questions=tuple(questions), samples=samples, max_new_tokens=max_new_tokens,
            temperature=leakage.temperature if temperature is None else temperature, top_p=leakage.top_p,
            precision=leakage.precision, seed=f"{self.study.seeds[0] if seed is None else seed}/{name}",
            parity_prompts=parity,
        )  # fmt: skip
        inputs = {"checkpoint": checkpoint} | ({"adapter": adapter} if adapter else {})
        return _stage(name, "generation.stages:sample", settings, MODEL, **inputs)


def _stage(
    name: str, function: str, settings: Settings, resources: Resources = CPU, /, **inputs: Stage
) -> Stage:
    return Stage(name, f"flatprobe.{function}", settings, inputs, resources=resources)


def _lambda_name(lambda_: float | None) -> str:
    return "lambda-selected" if lambda_ is None else f"lambda-{lambda_:g}"


def _once(arms: Sequence[_Arm]) -> list[_Arm]:
    """One arm per checkpoint: seeds share a condition that is not finetuned."""
    return list({arm.tag: arm for arm in reversed(arms)}.values())[::-1]
