"""The commands on a study: check, run, status, report and verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flatprobe import console
from flatprobe.errors import UserError
from flatprobe.machine.load import load_machine
from flatprobe.machine.schema import Machine
from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.manifest import Damaged
from flatprobe.pipeline.stage import topological_order
from flatprobe.prepare import Prepared, prepare, run_prepared
from flatprobe.report.numbers import plain
from flatprobe.study.resources import shipped_study

DEMO_WORKERS = 2
"""Stages of a small model keep one thread busy, so two at a time use two cores."""


def check_study(study: Path, machine_file: Path | None) -> None:
    """Check a study completely and print its number of stages."""
    prepared = prepare(study, load_machine(machine_file), None, check_model=True)
    for notice in prepared.loaded.notices:
        console.warn(notice)
    stages = len(topological_order([prepared.plan.last]))
    console.say(f"{study}: no problems. {stages} stages; digest {prepared.digest[:16]}.")


def show_status(study: Path, machine_file: Path | None, runs: Path | None) -> None:
    """Print the stages that are not finished, and the verdict if there is one."""
    prepared = prepare(study, load_machine(machine_file), runs)
    show_stages(prepared, only_unfinished=True)
    if (verdict := _find_verdict(prepared)) is not None:
        console.say(verdict["headline"])


def show_stages(prepared: Prepared, *, only_unfinished: bool) -> None:
    """Print the stages in order with their state, how many are finished, and the study's notices."""
    from flatprobe.pipeline.status import status

    states = status([prepared.plan.last], prepared.folder)
    rows = [
        (state.name, state.key[:12], state.state, console.duration(state.seconds) if state.seconds is not None else "")
        for state in states
        if not (only_unfinished and state.state == "finished")
    ]
    if rows:
        console.table(("stage", "key", "state", "time"), rows, right=("time",))
    finished = sum(state.state == "finished" for state in states)
    console.say(f"{finished} of {len(states)} stages finished in {prepared.folder}")
    for notice in prepared.loaded.notices:
        console.warn(notice)


def demo(quick: bool, machine_file: Path | None, runs: Path | None) -> None:
    """Run the demo or its smoke run: on the CPU, which its sizes are made for, unless a machine file says otherwise."""
    from flatprobe.prepare import cores

    workers = min(DEMO_WORKERS, cores())
    machine = Machine(device="cpu", workers=workers) if machine_file is None else load_machine(machine_file)
    execute(shipped_study("quick" if quick else "demo"), machine, runs, register=False)


def execute(study: Path, machine: Machine, runs: Path | None, *, register: bool) -> None:
    """Run a study to its report; a finished one is recognised in seconds."""
    from flatprobe.pipeline.display import display_for_people

    prepared = prepare(study, machine, runs, check_model=True, keep=True, register=register)
    for notice in prepared.loaded.notices:
        console.warn(notice)
    summary, page = run_prepared(prepared, display_for_people())
    console.say(f"{summary.done} stages run, {summary.reused} reused, {console.duration(summary.seconds)}.")
    if prepared.plan.verdict is None:
        show_comparison(prepared.folder)
    else:
        console.say(_verdict_of(prepared)["headline"], style="bold")
    console.say(f"Report: {page}")


def show_comparison(run_folder: Path) -> None:
    """Print the tables and the conclusion of a finished study without a coupling."""
    from flatprobe.report.analysis_folder import read
    from flatprobe.report.comparison import conclusion
    from flatprobe.report.tables.comparison import by_layer, by_measure, by_position

    analysis = read(run_folder / "analysis")
    for table in (by_layer(analysis), by_position(analysis), by_measure(analysis)):
        heads = [head for head, _ in table.heads]
        console.say()
        console.table(heads, table.rows, table.caption, [h for h, align in table.heads if align == "number"])
    console.say()
    for sentence in conclusion(analysis):
        console.say(sentence, style="bold")
    console.say("No verdict: geometry only.")


def write_report(study: Path, machine_file: Path | None, runs: Path | None) -> None:
    """Render the report of a finished study again."""
    from flatprobe.analysis.run_folder import assemble

    prepared = prepare(study, load_machine(machine_file), runs)
    if prepared.plan.verdict is not None:
        _verdict_of(prepared)
    page = assemble(prepared.loaded, prepared.digest, prepared.plan, prepared.folder, again=True)
    console.say(f"Report: {page}")


def show_verdict(study: Path, machine_file: Path | None, runs: Path | None, as_json: bool) -> None:
    """Print the verdict with its reasons and gates."""
    prepared = prepare(study, load_machine(machine_file), runs)
    verdict = _verdict_of(prepared)
    if as_json:
        console.say(json.dumps(verdict, indent=1))
        return
    console.say(verdict["headline"], style="bold")
    for reason in verdict["reasons"]:
        console.say(f"- {reason}")
    console.table(
        ("gate", "arm", "value", "", "threshold", "passed", "blocks"),
        [
            (
                gate["name"],
                gate["arm"],
                plain(gate["statistic"]),
                gate["comparison"],
                plain(gate["threshold"]),
                {True: "yes", False: "no", None: "not evaluated"}[gate["passed"]],
                gate["blocks"],
            )
            for gate in verdict["gates"]
        ],
        right=("value", "threshold"),
    )
    _show_known_answers(verdict)


def _show_known_answers(verdict: dict[str, Any]) -> None:
    """Print the contrasts whose answer was known, with what the probes found; nothing without any."""
    if not verdict["known_answers"]:
        return
    rows = []
    for answer in verdict["known_answers"]:
        cells = [f"{answer['treated']} - {answer['control']}", answer["verdict"]]
        for leg in ("geometry", "leakage"):
            cells += [answer["legs"][leg], answer["expected"][leg] or "anything"]
        rows.append([cell.replace("_", " ") for cell in cells] + ["yes" if answer["as_expected"] else "no"])
    heads = ("contrast", "verdict", "geometry", "expected", "leakage", "expected", "as expected")
    console.table(heads, rows)
    console.say(verdict["instrument"], style="bold")


def _verdict_of(prepared: Prepared) -> dict[str, Any]:
    if prepared.plan.verdict is None:
        place, remedy = str(prepared.loaded.path), "a verdict needs both probes, and so a `coupling`"
        raise UserError.one("verdict.without_coupling", place, "no verdict: geometry only", remedy)
    verdict = _find_verdict(prepared)
    if verdict is None:
        place, remedy = str(prepared.folder), f"flatprobe run {prepared.loaded.path}"
        raise UserError.one("verdict.not_finished", place, "this study has no verdict yet", remedy)
    return verdict


def _find_verdict(prepared: Prepared) -> dict[str, Any] | None:
    """The content of verdict.json. None without a coupling, and before there is a verdict.

    Raises:
        UserError: the artifact is damaged.
    """
    if prepared.plan.verdict is None:
        return None
    try:
        artifact = ArtifactStore(prepared.folder).find(prepared.plan.verdict)
        if artifact is None:
            return None
        verdict: dict[str, Any] = json.loads((artifact.folder / "verdict.json").read_text())
    except (Damaged, ValueError) as error:
        remedy = f"`flatprobe run {prepared.loaded.path}` computes it again"
        message = f"the verdict is damaged: {error}"
        raise UserError.one("verdict.damaged", str(prepared.folder), message, remedy) from error
    return verdict
