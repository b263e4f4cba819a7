"""From a study's file to its plan and its run: load, check, resolve, register, run, write the report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flatprobe import console
from flatprobe.errors import Problem, UserError
from flatprobe.machine.local import Local, to_environment
from flatprobe.machine.schema import Machine
from flatprobe.models.pinned import Pins, read_pins, write_pins
from flatprobe.models.reference import Reference
from flatprobe.pipeline.artifact import Artifact
from flatprobe.pipeline.display import Display
from flatprobe.pipeline.runner import RunnerSettings, RunSummary
from flatprobe.pipeline.stage import Stage
from flatprobe.planner.plan import Plan
from flatprobe.planner.plan import plan as make_plan
from flatprobe.study.load import examine_study
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.registration import digest, registration_state
from flatprobe.study.registration import register as register_study
from flatprobe.study.resolve import Resolved, resolve_study


@dataclass(frozen=True)
class Prepared:
    """A study that passed every check, with its plan."""

    loaded: LoadedStudy
    resolved: Resolved
    machine: Machine
    folder: Path
    digest: str
    plan: Plan


def prepare(
    study: Path,
    machine: Machine,
    runs: Path | None,
    *,
    check_model: bool = False,
    keep: bool = False,
    register: bool = False,
) -> Prepared:
    """Load, check and plan.

    `check_model` looks into the models' folders too, which fetches or converts what is not there yet. `keep` has the
    run folder remember the commits that unpinned revisions stand for; later commands then ask no hub.

    Raises:
        UserError: everything that is wrong, at once.
    """
    loaded, problems = examine_study(study)
    if loaded is None:
        raise UserError(problems)
    folder = (runs or Path(machine.runs)) / loaded.study.name
    pins = read_pins(folder)
    resolved = resolve_checked(loaded, problems, pins, check_model=check_model)
    if keep:
        write_pins(pins, folder)
    if register:
        register_study(resolved, folder)
    return planned(loaded, resolved, machine, folder)


def resolve_checked(loaded: LoadedStudy, problems: Sequence[Problem], pins: Pins, *, check_model: bool) -> Resolved:
    """Resolve a study whose `problems` so far are known, and check it against its model with `check_model`.

    Raises:
        UserError: those problems and all further ones, at once.
    """
    try:
        resolved = resolve_study(loaded, pins)
        if check_model:
            _check_model(loaded, resolved)
    except UserError as error:
        places = {problem.place for problem in problems}  # an unknown folder is found twice
        raise UserError([*problems, *(p for p in error.problems if p.place not in places)]) from error
    except (LookupError, OSError, ValueError):
        if not problems:
            raise
        raise UserError(problems) from None  # a wrong study may not be resolvable: report what is known
    if problems:
        raise UserError(problems)
    return resolved


def planned(loaded: LoadedStudy, resolved: Resolved, machine: Machine, folder: Path) -> Prepared:
    """A checked study with its plan in a run folder."""
    name = digest(resolved)
    return Prepared(loaded, resolved, machine, folder, name, make_plan(resolved, registration_state(folder, name)))


def announce_conversion(reference: Reference) -> None:
    """Say, on standard error, that the embedded model is converted now, if it is."""
    from flatprobe.models.embedded import is_converted

    if reference.kind == "embedded" and not is_converted():
        console.warn("converting the embedded model once (about half a minute)")


def _check_model(loaded: LoadedStudy, resolved: Resolved) -> None:
    from flatprobe.study.checks.packages import extra_problems

    if missing := list(extra_problems(loaded)):
        raise UserError(missing)
    from flatprobe.study.checks.model import model_problems

    announce_conversion(resolved.model)
    adapters = {name for name, condition in loaded.study.conditions.items() if condition.adapter is not None}
    given = {
        name: resolved.description(reference, weights=name in adapters) for name, reference in resolved.given.items()
    }
    problems = model_problems(loaded, resolved.description(resolved.model), given)
    if problems:
        raise UserError(problems)


def run_prepared(prepared: Prepared, display: Display | None = None) -> tuple[RunSummary, Path]:
    """Run all missing stages and write the report; returns the summary and the report's path.

    The display shows the control's headroom as soon as its states exist, computed or reused.

    Raises:
        UserError: a stage refused its input; the note says that finished stages are kept.
        StageFailed, Interrupted: as `flatprobe.pipeline.runner.run`.
    """
    from flatprobe.analysis.run_folder import assemble
    from flatprobe.pipeline.runner import run
    from flatprobe.report.headroom import headroom_lines

    def show_headroom(stage: Stage, artifact: Artifact) -> None:
        if display is not None and stage.key == prepared.plan.control_states.key:
            for line in headroom_lines(artifact.facts, prepared.loaded.study):
                display.note(line)

    try:
        summary = run(
            [prepared.plan.last],
            prepared.folder,
            runner_settings(prepared.machine, prepared.resolved.locations),
            display,
            on_finished=show_headroom,
        )
    except UserError as error:
        error.add_note("finished stages are kept, and the same command goes on from there")
        raise
    return summary, assemble(prepared.loaded, prepared.digest, prepared.plan, prepared.folder)


def runner_settings(machine: Machine, locations: Mapping[str, str]) -> RunnerSettings:
    """How stages run here; `locations` is where local models and data lie, by fingerprint."""
    return RunnerSettings(
        threads=_threads(machine),
        environment=to_environment(Local.of(machine, locations)),
        workers=machine.workers,
        gpus=machine.gpus,
    )


def _threads(machine: Machine) -> int | None:
    """Threads of one worker. One alone is left to its libraries, which then take all cores."""
    if machine.threads is not None or machine.workers == 1:
        return machine.threads
    return max(1, cores() // machine.workers)


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
