"""Makes the stages of a study's couplings, and the stages that measure with them."""

from __future__ import annotations

from collections.abc import Sequence

from flatprobe.pipeline.stage import CPU, Stage
from flatprobe.planner.contracts import (
    BindingSettings,
    CoupleSettings,
    CouplingDataSettings,
    SelectSettings,
    WeightsSettings,
)
from flatprobe.planner.stages import MODEL, Arm, StudyStages, stage

PARITY_PROMPTS = 2  # prompts on which a leakage stage compares its engine with `generate`


class CouplingStages(StudyStages):
    """Makes all stages of one study that need a coupling or an adapter."""

    def coupling_data(self, arms: Sequence[Arm], control: Arm, seed: int) -> Stage:
        """The training sets of all conditions, made together so that their lengths match.

        Each condition uses its own answers, or all use the control's.
        """
        coupling = self.coupling
        inputs = {
            f"{arm.condition}/{role}": answers
            for arm in arms
            for role, answers in (arm if coupling.generator == "own" else control).answers.items()
        }
        settings = CouplingDataSettings(
            source=self.study.panel.source,
            marker=self.study.leakage.marker,
            positives=coupling.positives,
            negatives_per_persona=coupling.negatives_per_persona,
            truncate=coupling.length_match.truncate,
            tolerance=self.study.decision.gates.length_tolerance,
        )
        if settings.truncate != "off":
            inputs["checkpoint"] = control.checkpoint  # its tokenizer counts the tokens of a cut answer
        return stage(f"coupling-data/seed-{seed}", "coupling_data", settings, **inputs)

    def couple(
        self, arm: Arm, lambda_: float | None, *, data: Stage, telemetry: Stage, selection: Stage | None
    ) -> Stage:
        """The training of a coupling. Lambda None uses the selected one and needs the selection."""
        coupling = self.coupling
        settings = CoupleSettings(
            recipe=coupling.recipe,
            condition=arm.condition,
            marker=self.study.leakage.marker,
            lambda_=lambda_,
            seed=arm.training_seed,
            personas=self.trained,
            bystanders=self.resolved.role("bystander"),
            questions=self.questions["coupling"],
            calibration=self.questions["calibration"][: coupling.telemetry_questions],
        )
        inputs = {"checkpoint": arm.checkpoint, "examples": data, "telemetry": telemetry}
        if lambda_ is None:
            assert selection is not None, "the control is trained with every lambda"
            inputs["selection"] = selection
        name = f"couple/{arm.condition}/{_lambda_name(lambda_)}/seed-{arm.seed}"
        return stage(name, "couple", settings, MODEL, **inputs)

    def select(self, control: Arm, data: Stage, telemetry: Stage) -> Stage:
        """Selects lambda by the control's completions as source and negatives on calibration questions."""
        coupling = self.coupling
        lambdas = coupling.unlikelihood.lambdas
        calibrations = {
            f"lambda-{index}": self.sample(
                f"calibrate/{control.condition}/{_lambda_name(lambda_)}",
                control.checkpoint,
                self.trained,
                self.questions["calibration"],
                samples=coupling.calibration_samples,
                max_new_tokens=self.study.leakage.max_new_tokens,
                adapter=self.couple(control, lambda_, data=data, telemetry=telemetry, selection=None),
            )
            for index, lambda_ in enumerate(lambdas)
        }
        settings = SelectSettings(source=self.study.panel.source, marker=self.study.leakage.marker, lambdas=lambdas)
        return stage("select-lambda", "select_lambda", settings, **calibrations)

    def baseline(self, arm: Arm) -> Stage:
        """Completions of the uncoupled checkpoint on evaluation questions: the false-positive baseline."""
        return self._completions(f"baseline/{arm.tag}", arm, None, self.study.leakage.baseline_samples)

    def leakage(self, arm: Arm, couple: Stage) -> Stage:
        """Completions of a coupled checkpoint on evaluation questions."""
        return self._completions(_named_after(couple, "leakage"), arm, couple, self.study.leakage.samples)

    def _completions(self, name: str, arm: Arm, couple: Stage | None, samples: int) -> Stage:
        leakage = self.study.leakage
        return self.sample(
            name,
            arm.checkpoint,
            self.resolved.personas,
            self.questions["evaluation"],
            samples=samples,
            max_new_tokens=leakage.max_new_tokens,
            adapter=couple,
            parity=PARITY_PROMPTS,
            seed=arm.seed,
            stop_at=leakage.marker if leakage.stop_at_marker else None,
        )

    def binding(self, arm: Arm, couple: Stage) -> Stage:
        """The marker's log-probability for each pairing of system prompt and answer, under one coupling."""
        study = self.study
        settings = BindingSettings(
            source=self.resolved.role("source")[0],
            bystanders=self.resolved.role("bystander"),
            questions=self.questions["evaluation"],
            separator=self.coupling.separator,
            marker=study.leakage.marker,
            precision=study.leakage.precision,
            level=study.decision.behaviour.level,
        )
        inputs = {"checkpoint": arm.checkpoint, "adapter": couple, "own": arm.own}
        return stage(_named_after(couple, "binding"), "binding", settings, MODEL, **inputs)

    def audit(self, couple: Stage, leakage: Stage) -> Stage:
        """The training set of a coupling token by token, and the marker's places in its completions."""
        inputs = {
            "checkpoint": couple.inputs["checkpoint"],
            "examples": couple.inputs["examples"],
            "coupling": couple,
            "completions": leakage,
        }
        return stage(_named_after(couple, "audit"), "audit", couple.settings, CPU, **inputs)

    def weights(self, checkpoint: Stage, adapter: Stage) -> Stage:
        """The size of an adapter's update (of a finetune or a coupling), relative to its checkpoint's weights."""
        settings = WeightsSettings(precision=self.study.model.dtype)
        inputs = {"checkpoint": checkpoint, "adapter": adapter}
        return stage(f"weights/{adapter.name}", "weights", settings, MODEL, **inputs)


def _named_after(couple: Stage, prefix: str) -> str:
    return couple.name.replace("couple/", f"{prefix}/", 1)


def _lambda_name(lambda_: float | None) -> str:
    return "lambda-selected" if lambda_ is None else f"lambda-{lambda_:g}"
