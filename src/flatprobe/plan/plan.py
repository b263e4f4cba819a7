"""The order of the science: from a study to its stages. The one file that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.pipeline.stage import Stage
from flatprobe.plan.contracts import (
    DecideSettings,
    Entry,
    EntryKind,
    EstimateSettings,
    GatherSettings,
)
from flatprobe.plan.coupling_stages import CouplingParts
from flatprobe.plan.stages import Arm, stage
from flatprobe.study.decision_schema import RegistrationState
from flatprobe.study.resolve import Resolved


@dataclass(frozen=True)
class Plan:
    """All stages of a study."""

    control_states: Stage
    """Hidden states of the control under the first seed: its headroom is known from here on."""
    tables: Stage
    estimates: Stage
    verdict: Stage | None
    """None in a study without a coupling."""

    @property
    def last(self) -> Stage:
        """The stage that needs all others."""
        return self.verdict or self.estimates


def plan(resolved: Resolved, registered: RegistrationState) -> Plan:
    """The stages of a study. Nothing is run, and no model library is imported."""
    return _Planner(resolved).plan(registered)


class _Planner:
    """Stages run in the order in which they are entered, each after what it needs."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved, self.study, self.parts = resolved, resolved.study, CouplingParts(resolved)
        self.entries: list[Entry] = []
        self.inputs: dict[str, Stage] = {}
        self.data: dict[str, Stage] = {}

    def plan(self, registered: RegistrationState) -> Plan:
        """Data first, whose faults cost nothing yet; then the control up to its headroom; then what is dear."""
        study, rule = self.study, self.study.decision
        order = [rule.control, *(name for name in study.conditions if name != rule.control)]
        for name in order:
            if (data := study.conditions[name].finetune) is not None and data.imitate is None:
                self._finetune_data(name)
        control = self._arm(rule.control, study.seeds[0])
        states = self.parts.states(control, control)
        self._enter("states", control.condition, states, seed=control.seed)
        for name in order:
            if (data := study.conditions[name].finetune) is not None and data.imitate is not None:
                twin = next((other for other in self.data if study.conditions[other].finetune == data), None)
                self.data[name] = self.data[twin] if twin else self.parts.imitation_data(name, control)
                self._enter("finetune_data", name, self.data[name])
        arms = [
            control if (name, seed) == (control.condition, control.seed) else self._arm(name, seed)
            for seed in study.seeds
            for name in order
        ]
        for arm in _once(arms):
            if arm is not control:
                self._enter("states", arm.condition, self.parts.states(arm, control), seed=arm.seed)
            if study.coupling is not None:
                self._manipulation(arm, control)
                self._enter("baseline", arm.condition, self.parts.leakage(arm, None), seed=arm.seed)
        if study.coupling is not None:
            self._couplings(arms, control)
        return self._analysis(registered, states)

    # --- before coupling

    def _finetune_data(self, name: str) -> Stage:
        """Rows of a condition; those of the set whose lengths they follow are prepared first."""
        data = self.study.conditions[name].finetune
        assert data is not None
        if name not in self.data:
            reference = self._finetune_data(data.length_match) if data.length_match is not None else None
            self.data[name] = self.parts.finetune_data(name, reference)
            self._enter("finetune_data", name, self.data[name])
        return self.data[name]

    def _arm(self, name: str, seed: int) -> Arm:
        if self.study.conditions[name].finetune is not None:
            tag = f"{name}/seed-{seed}"
            finetune = self.parts.finetune(name, tag, self.parts.training_seed(name, seed), self.data[name])
            self._enter("finetune", name, finetune, seed=seed)
            self._enter("weights", name, self.parts.weights(self.parts.base, finetune), seed=seed)
            checkpoint = self.parts.merged(tag, finetune)
        else:
            tag, checkpoint = name, self.parts.given(name)
        arm = self.parts.arm(name, seed, tag, checkpoint)
        self._enter("checkpoint", name, checkpoint, seed=seed)
        answers = arm.own if self.study.coupling is not None else self.parts.probed(arm)
        self._enter("own", name, answers, seed=seed)
        return arm

    def _held_out_from(self) -> dict[str, str]:
        """See `DecideSettings.held_out_from`; of conditions with the same rows the study's first one is named."""
        first: dict[str, str] = {}
        return {
            name: first.setdefault(self.data[name].key, name)
            for name, condition in self.study.conditions.items()
            if condition.finetune is not None and condition.finetune.holds_pairs_out
        }

    def _manipulation(self, arm: Arm, control: Arm) -> None:
        held_out = {name: self.data[name] for name in self._held_out_from().values()}
        check = self.parts.manipulation(arm, control, held_out)
        self._enter("manipulation", arm.condition, check, seed=arm.seed)

    # --- coupling and leakage

    def _couplings(self, arms: Sequence[Arm], control: Arm) -> None:
        """Every arm's couplings with their completions; lambda is selected in between."""
        parts = self.parts
        data: dict[int, Stage] = {}
        for seed in self.study.seeds:
            data[seed] = parts.coupling_data([arm for arm in arms if arm.seed == seed], control, seed)
            self._enter("coupling_data", None, data[seed], seed=seed)
        telemetry = {arm.tag: parts.telemetry(arm) for arm in arms}
        selection = parts.select(control, data[control.seed], telemetry[control.tag])
        self._enter("selection", None, selection)
        for arm in arms:
            for lambda_ in self._lambdas(arm, control):
                couple = parts.couple(arm, lambda_, data[arm.seed], telemetry[arm.tag], selection)
                role = self._enter("couple", arm.condition, couple, seed=arm.seed)
                leakage = parts.leakage(arm, couple)
                self._enter("leakage", arm.condition, leakage, role, arm.seed)
                self._enter("binding", arm.condition, parts.binding(arm, couple), role, arm.seed)
                self._enter("audit", arm.condition, parts.audit(couple, leakage), role, arm.seed)
                self._enter("weights", arm.condition, parts.weights(arm.checkpoint, couple), role, arm.seed)

    def _lambdas(self, arm: Arm, control: Arm) -> Sequence[float | None]:
        """The weights trained on an arm; None stands for the selected one."""
        unlikelihood = self.parts.coupling.unlikelihood
        sweeps = unlikelihood.sweep == "all_conditions" or arm.tag == control.tag
        return unlikelihood.lambdas if sweeps else (None,)

    # --- analysis

    def _analysis(self, registered: RegistrationState, control_states: Stage) -> Plan:
        study, coupling, personas = self.study, self.study.coupling, self.resolved.personas
        bystanders = tuple(persona.name for persona in self.resolved.role("bystander"))
        gather = GatherSettings(
            marker=study.leakage.marker, personas=personas, questions=dict(self.resolved.questions),
            entries=tuple(self.entries),
        )  # fmt: skip
        tables = stage("tables", "gather", gather, **self.inputs)
        states = {e.role: self.inputs[e.role] for e in self.entries if e.kind == "states"}
        estimate = EstimateSettings(
            rule=study.decision, source=study.panel.source, bystanders=bystanders, pools=study.panel.pools,
            trained=tuple(persona.name for persona in self.parts.trained),
            geometry_resamples=study.geometry.resamples,
            reliability_splits=study.geometry.reliability_splits, seed=study.seeds[0],
            stop_at=coupling.stop_at if coupling and coupling.stopping == "source_probability" else None,
            entries=tuple(entry for entry in self.entries if entry.kind == "states"),
        )  # fmt: skip
        estimates = stage("estimates", "estimate", estimate, tables=tables, **states)
        if coupling is None:
            return Plan(control_states, tables, estimates, None)
        decide = DecideSettings(
            rule=study.decision, source=study.panel.source, bystanders=bystanders, registered=registered,
            smoke=study.smoke, finetuned=tuple(n for n, c in study.conditions.items() if c.finetune or c.adapter),
            held_out_from=self._held_out_from(),
        )  # fmt: skip
        verdict = stage("verdict", "decide", decide, tables=tables, estimates=estimates)
        return Plan(control_states, tables, estimates, verdict)

    def _enter(
        self,
        kind: EntryKind,
        condition: str | None,
        entered: Stage,
        couple: str | None = None,
        seed: int | None = None,
    ) -> str:
        """Make a stage an input of the analysis; returns its role there."""
        role = entered.name
        if role not in self.inputs:
            self.inputs[role] = entered
        self.entries.append(Entry(role=role, kind=kind, condition=condition, seed=seed, couple=couple))
        return role


def _once(arms: Sequence[Arm]) -> list[Arm]:
    """One arm per checkpoint: seeds share a condition that is not finetuned."""
    return list({arm.tag: arm for arm in reversed(arms)}.values())[::-1]
