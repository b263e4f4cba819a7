"""The order of the science: turns a study into its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatprobe.pipeline.stage import Stage
from flatprobe.planner.contracts import DecideSettings, Entry, EntryKind, EstimateSettings, GatherSettings
from flatprobe.planner.coupling_stages import CouplingStages
from flatprobe.planner.stages import Arm, stage
from flatprobe.study.decision_schema import RegistrationState
from flatprobe.study.resolve import Resolved


@dataclass(frozen=True)
class Plan:
    """The stages of a study whose artifacts commands read; `last` needs all others."""

    control_states: Stage
    """Hidden states of the control under the first seed. They show its headroom."""
    tables: Stage
    estimates: Stage
    verdict: Stage | None
    """None in a study without a coupling."""

    @property
    def last(self) -> Stage:
        """The stage that needs all others."""
        return self.verdict or self.estimates


def plan(resolved: Resolved, registered: RegistrationState) -> Plan:
    """The stages of a study. Runs nothing and imports no model library."""
    return _Planner(resolved).plan(registered)


class _Planner:
    """Collects the inputs of the analysis. Stages run in the order in which they are added, each after its inputs."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved, self.study, self.stages = resolved, resolved.study, CouplingStages(resolved)
        self.entries: list[Entry] = []
        self.inputs: dict[str, Stage] = {}
        self.data: dict[str, Stage] = {}
        """Finetuned condition to its training rows."""

    def plan(self, registered: RegistrationState) -> Plan:
        """Order: data (fails cheaply), the control until its headroom is known, then the expensive stages."""
        study, rule = self.study, self.study.decision
        order = [rule.control, *(name for name in study.conditions if name != rule.control)]
        for condition in order:
            data = study.conditions[condition].finetune
            if data is not None and data.imitate is None:
                self._finetune_data(condition)
        control = self._arm(rule.control, study.seeds[0])
        control_states = self.stages.states(control, control)
        self._add("states", control_states, condition=control.condition, seed=control.seed)
        for condition in order:
            data = study.conditions[condition].finetune
            if data is not None and data.imitate is not None:
                twin = next((other for other in self.data if study.conditions[other].finetune == data), None)
                rows = self.data[twin] if twin else self.stages.imitation_data(condition, control)
                self.data[condition] = rows
                self._add("finetune_data", rows, condition=condition)
        arms = [
            control if (condition, seed) == (control.condition, control.seed) else self._arm(condition, seed)
            for seed in study.seeds
            for condition in order
        ]
        for arm in _one_per_checkpoint(arms):
            if arm is not control:
                self._add_of("states", self.stages.states(arm, control), arm)
            if study.coupling is not None:
                self._manipulation(arm, control)
                self._add_of("baseline", self.stages.baseline(arm), arm)
        if study.coupling is not None:
            self._couplings(arms, control)
        return self._analysis(registered, control_states)

    # --- before coupling

    def _finetune_data(self, condition: str) -> Stage:
        """Training rows of a condition. If their lengths must match another set, that set comes first."""
        data = self.study.conditions[condition].finetune
        assert data is not None
        if condition not in self.data:
            reference = self._finetune_data(data.length_match) if data.length_match is not None else None
            self.data[condition] = self.stages.finetune_data(condition, reference)
            self._add("finetune_data", self.data[condition], condition=condition)
        return self.data[condition]

    def _arm(self, condition: str, seed: int) -> Arm:
        if self.study.conditions[condition].finetune is not None:
            tag, training_seed = f"{condition}/seed-{seed}", self.stages.training_seed(condition, seed)
            adapter = self.stages.finetune(condition, tag, training_seed, self.data[condition])
            weights = self.stages.weights(self.stages.base, adapter)
            self._add("finetune", adapter, condition=condition, seed=seed)
            self._add("weights", weights, condition=condition, seed=seed)
            checkpoint = self.stages.merged(tag, adapter)
        else:
            tag, checkpoint = condition, self.stages.given(condition)
        arm = self.stages.arm(condition, seed, tag, checkpoint)
        self._add_of("checkpoint", checkpoint, arm)
        self._add_of("own", arm.own if self.study.coupling is not None else self.stages.probed(arm), arm)
        return arm

    def _held_out_from(self) -> dict[str, str]:
        """See `DecideSettings.held_out_from`. Of conditions with the same rows, the study's first one is used."""
        first_with: dict[str, str] = {}
        return {
            name: first_with.setdefault(self.data[name].key, name)
            for name, condition in self.study.conditions.items()
            if condition.finetune is not None and condition.finetune.holds_pairs_out
        }

    def _manipulation(self, arm: Arm, control: Arm) -> None:
        held_out = {condition: self.data[condition] for condition in self._held_out_from().values()}
        self._add_of("manipulation", self.stages.manipulation(arm, control, held_out), arm)

    # --- coupling and leakage

    def _couplings(self, arms: Sequence[Arm], control: Arm) -> None:
        """The couplings of every arm with their completions. Lambda is selected before them, on the control."""
        stages = self.stages
        data: dict[int, Stage] = {}
        for seed in self.study.seeds:
            data[seed] = stages.coupling_data([arm for arm in arms if arm.seed == seed], control, seed)
            self._add("coupling_data", data[seed], seed=seed)
        telemetry = {arm.tag: stages.telemetry(arm) for arm in arms}
        selection = stages.select(control, data[control.seed], telemetry[control.tag])
        self._add("selection", selection)
        for arm in arms:
            for lambda_ in self._lambdas(arm, control):
                couple = stages.couple(
                    arm, lambda_, data=data[arm.seed], telemetry=telemetry[arm.tag], selection=selection
                )
                leakage = stages.leakage(arm, couple)
                self._add_of("couple", couple, arm)
                self._add_of("leakage", leakage, arm, couple)
                self._add_of("binding", stages.binding(arm, couple), arm, couple)
                self._add_of("audit", stages.audit(couple, leakage), arm, couple)
                self._add_of("weights", stages.weights(arm.checkpoint, couple), arm, couple)

    def _lambdas(self, arm: Arm, control: Arm) -> Sequence[float | None]:
        """The lambdas that an arm is trained with. None is the selected one."""
        unlikelihood = self.stages.coupling.unlikelihood
        sweeps = unlikelihood.sweep == "all_conditions" or arm.tag == control.tag
        return unlikelihood.lambdas if sweeps else (None,)

    # --- analysis

    def _analysis(self, registered: RegistrationState, control_states: Stage) -> Plan:
        study, coupling = self.study, self.study.coupling
        bystanders = tuple(persona.name for persona in self.resolved.role("bystander"))
        state_entries = tuple(entry for entry in self.entries if entry.kind == "states")
        stop_at = coupling.stop_at if coupling and coupling.stopping == "source_probability" else None
        gather = GatherSettings(
            marker=study.leakage.marker,
            personas=self.resolved.personas,
            questions=dict(self.resolved.questions),
            entries=tuple(self.entries),
            level=study.decision.behaviour.level,
        )
        tables = stage("tables", "gather", gather, **self.inputs)
        estimate = EstimateSettings(
            rule=study.decision,
            source=study.panel.source,
            bystanders=bystanders,
            pools=study.panel.pools,
            trained=tuple(persona.name for persona in self.stages.trained),
            geometry_resamples=study.geometry.resamples,
            reliability_splits=study.geometry.reliability_splits,
            seed=study.seeds[0],
            stop_at=stop_at,
            entries=state_entries,
        )
        states = {entry.role: self.inputs[entry.role] for entry in state_entries}
        estimates = stage("estimates", "estimate", estimate, tables=tables, **states)
        if coupling is None:
            return Plan(control_states, tables, estimates, verdict=None)
        decide = DecideSettings(
            rule=study.decision,
            source=study.panel.source,
            bystanders=bystanders,
            registered=registered,
            smoke=study.smoke,
            finetuned=tuple(name for name, c in study.conditions.items() if c.finetune or c.adapter),
            held_out_from=self._held_out_from(),
        )
        verdict = stage("verdict", "decide", decide, tables=tables, estimates=estimates)
        return Plan(control_states, tables, estimates, verdict)

    def _add_of(self, kind: EntryKind, added: Stage, arm: Arm, couple: Stage | None = None) -> None:
        """Make an arm's stage an input of the analysis. `couple` is the coupling that it measures with."""
        role = couple.name if couple is not None else None
        self._add(kind, added, condition=arm.condition, seed=arm.seed, couple=role)

    def _add(
        self,
        kind: EntryKind,
        added: Stage,
        *,
        condition: str | None = None,
        seed: int | None = None,
        couple: str | None = None,
    ) -> None:
        """Make a stage an input of the analysis, under its name."""
        self.inputs.setdefault(added.name, added)
        self.entries.append(Entry(role=added.name, kind=kind, condition=condition, seed=seed, couple=couple))


def _one_per_checkpoint(arms: Sequence[Arm]) -> list[Arm]:
    """The first arm of each checkpoint. All seeds share the checkpoint of a condition that is not finetuned."""
    return list({arm.tag: arm for arm in reversed(arms)}.values())[::-1]
