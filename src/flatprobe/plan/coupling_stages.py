"""The stages of a study's couplings one by one, and of what is read with them."""

from __future__ import annotations

from collections.abc import Sequence

from flatprobe.pipeline.stage import CPU, Stage
from flatprobe.plan.contracts import (
    BindingSettings,
    CoupleSettings,
    CouplingDataSettings,
    SelectSettings,
    WeightsSettings,
)  # fmt: skip
from flatprobe.plan.stages import MODEL, Arm, Parts, stage

PARITY_PROMPTS = 2  # prompts on which a sampling stage checks its engine against `generate`


class CouplingParts(Parts):
    """Makes the stages of one study, those of its couplings and of what adapters do included."""

    def coupling_data(self, arms: Sequence[Arm], control: Arm, seed: int) -> Stage:
        """The one join: every condition's answers, or the control's under every condition's name."""
        own, coupling = self.coupling.generator == "own", self.coupling
        inputs = {
            f"{arm.condition}/{role}": answers
            for arm in arms
            for role, answers in (arm if own else control).answers.items()
        }
        settings = CouplingDataSettings(
            source=self.study.panel.source, marker=self.study.leakage.marker, positives=coupling.positives,
            negatives_per_persona=coupling.negatives_per_persona, truncate=coupling.length_match.truncate,
            tolerance=self.study.decision.gates.length_tolerance,
        )  # fmt: skip
        if settings.truncate != "off":
            inputs["checkpoint"] = control.checkpoint  # its tokenizer counts what is left of an answer
        return stage(f"coupling-data/seed-{seed}", "coupling_data", settings, **inputs)

    def couple(
        self, arm: Arm, lambda_: float | None, data: Stage, telemetry: Stage, selection: Stage | None
    ) -> Stage:
        """A coupling; lambda None takes the selected one, and so needs the selection."""
        coupling = self.coupling
        settings = CoupleSettings(
            recipe=coupling.recipe, condition=arm.condition, marker=self.study.leakage.marker,
            lambda_=lambda_, seed=arm.training_seed, personas=self.trained, bystanders=self.resolved.role("bystander"),
            questions=self.questions["coupling"],
            calibration=self.questions["calibration"][: coupling.telemetry_questions],
        )  # fmt: skip
        inputs = {"checkpoint": arm.checkpoint, "examples": data, "telemetry": telemetry}
        if lambda_ is None:
            assert selection is not None, "the control is trained with every lambda"
            inputs["selection"] = selection
        name = f"couple/{arm.condition}/{_lambda_name(lambda_)}/seed-{arm.seed}"
        return stage(name, "couple", settings, MODEL, **inputs)

    def select(self, control: Arm, data: Stage, telemetry: Stage) -> Stage:
        """Lambda by the control's completions on calibration questions, source and negatives only."""
        coupling = self.coupling
        lambdas = coupling.unlikelihood.lambdas
        calibrations = {
            f"lambda-{index}": self.sample(
                f"calibrate/{control.condition}/{_lambda_name(lambda_)}", control.checkpoint, self.trained,
                self.questions["calibration"], coupling.calibration_samples, self.study.leakage.max_new_tokens,
                adapter=self.couple(control, lambda_, data, telemetry, None),
            )
            for index, lambda_ in enumerate(lambdas)
        }  # fmt: skip
        settings = SelectSettings(
            source=self.study.panel.source, marker=self.study.leakage.marker, lambdas=lambdas
        )
        return stage("select-lambda", "select_lambda", settings, **calibrations)

    def leakage(self, arm: Arm, couple: Stage | None) -> Stage:
        """Completions on evaluation questions; without a coupling, the false-positive baseline."""
        leakage = self.study.leakage
        name = f"baseline/{arm.tag}" if couple is None else couple.name.replace("couple/", "leakage/", 1)
        return self.sample(
            name, arm.checkpoint, self.resolved.personas, self.questions["evaluation"],
            leakage.baseline_samples if couple is None else leakage.samples, leakage.max_new_tokens,
            adapter=couple, parity=PARITY_PROMPTS, seed=arm.seed,
            stop_at=leakage.marker if leakage.stop_at_marker else None,
        )  # fmt: skip

    def binding(self, arm: Arm, couple: Stage) -> Stage:
        """The marker under either system prompt and behind either answer, read with one coupling."""
        study = self.study
        settings = BindingSettings(
            source=self.resolved.role("source")[0], bystanders=self.resolved.role("bystander"),
            questions=self.questions["evaluation"], separator=self.coupling.separator,
            marker=study.leakage.marker, precision=study.leakage.precision, level=study.decision.behaviour.level,
        )  # fmt: skip
        return stage(
            couple.name.replace("couple/", "binding/", 1), "binding", settings, MODEL,
            checkpoint=arm.checkpoint, adapter=couple, own=arm.own,
        )  # fmt: skip

    def audit(self, couple: Stage, leakage: Stage) -> Stage:
        """What a coupling was trained on, token by token, and where the marker stands in its completions."""
        needed = couple.inputs
        return stage(
            couple.name.replace("couple/", "audit/", 1), "audit", couple.settings, CPU,
            checkpoint=needed["checkpoint"], examples=needed["examples"], coupling=couple, completions=leakage,
        )  # fmt: skip

    def weights(self, checkpoint: Stage, adapter: Stage) -> Stage:
        """What an adapter, of a finetune or a coupling, does to its checkpoint's weights."""
        wanted = self.study.weights
        settings = WeightsSettings(
            precision=self.study.model.dtype, leading=wanted.leading, cosine=wanted.cosine
        )
        return stage(
            f"weights/{adapter.name}", "weights", settings, MODEL,
            checkpoint=checkpoint, adapter=adapter,
        )  # fmt: skip


def _lambda_name(lambda_: float | None) -> str:
    return "lambda-selected" if lambda_ is None else f"lambda-{lambda_:g}"
