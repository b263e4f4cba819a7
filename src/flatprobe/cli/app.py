"""The command `flatprobe`. Only light imports here: each command imports what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flatprobe.cli.tools import JsonFile, MachineFile, analyse, geometry, score, simulate
from flatprobe.errors import FlatprobeError, UserError

app = typer.Typer(
    help="Did this finetune make the model's personas more alike? Two probes, one registered rule.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130
"""The exit status that typer gives to Ctrl-C."""
StudyFile = Annotated[Path, typer.Argument(help="The study: a YAML file.")]
RunsFolder = Annotated[Path | None, typer.Option("--runs", help="Parent of run folders; overrides the machine file's.")]


@app.command("demo")
def run_demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a smoke test of a few minutes; its verdict supports no claim.")
    ] = False,
    machine: MachineFile = None,
    runs: RunsFolder = None,
) -> None:
    """Run the complete demo study on the embedded SmolLM2-135M, on this machine's CPU."""
    from flatprobe.cli.study import demo

    demo(quick, machine, runs)


@app.command()
def check(study: StudyFile, machine: MachineFile = None) -> None:
    """Report every problem of a study with file and line; run nothing."""
    from flatprobe.cli.study import check_study

    check_study(study, machine)


@app.command()
def plan(
    study: StudyFile,
    machine: MachineFile = None,
    runs: RunsFolder = None,
    power: Annotated[float, typer.Option(help="Target power.")] = 0.8,
    alpha: Annotated[
        float, typer.Option(help="Significance level for the power table (the registered level is always shown too).")
    ] = 0.05,
    components: Annotated[
        str | None,
        typer.Option(
            help="Variances: persona=…,question=…,interaction=…,completion=…[,seed=…]; an SD of 25 pp is 0.0625."
        ),
    ] = None,
    from_cells: Annotated[
        Path | None,
        typer.Option(help="Estimate the variances from these cells: CSV, Parquet, or a finished run's folder."),
    ] = None,
    treated: Annotated[str | None, typer.Option(help="Treated condition in the cells (default: the study's).")] = None,
    control: Annotated[str | None, typer.Option(help="Control condition in the cells (default: the study's).")] = None,
    bystanders: Annotated[
        list[str] | None,
        typer.Option(help="Personas in the cells, separated by commas; may be repeated (default: the study's)."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Use only these rows of the cells: `lambda=1`; may be repeated.")
    ] = None,
    as_json: JsonFile = None,
) -> None:
    """List a study's stages with their state, and what its design can detect; run nothing."""
    from flatprobe.cli.plan import PlanOptions, show_plan

    options = PlanOptions(
        study=study,
        machine=machine,
        runs=runs,
        alpha=alpha,
        power=power,
        components=components,
        from_cells=from_cells,
        where=where or (),
        treated=treated,
        control=control,
        bystanders=bystanders or (),
        json=as_json,
    )
    show_plan(options)


@app.command()
def run(
    study: StudyFile,
    machine: MachineFile = None,
    runs: RunsFolder = None,
    register: Annotated[
        bool, typer.Option("--register", help="Register the study before its first stage: its verdict is confirmatory.")
    ] = False,
) -> None:
    """Run a study, or continue it; finished stages are never run again."""
    from flatprobe.cli.study import execute
    from flatprobe.machine.load import load_machine

    execute(study, load_machine(machine), runs, register=register)


@app.command()
def status(study: StudyFile, machine: MachineFile = None, runs: RunsFolder = None) -> None:
    """Show a study's progress: stages finished, running and missing."""
    from flatprobe.cli.study import show_status

    show_status(study, machine, runs)


@app.command()
def report(study: StudyFile, machine: MachineFile = None, runs: RunsFolder = None) -> None:
    """Write report.html of a finished study again and print its path."""
    from flatprobe.cli.study import write_report

    write_report(study, machine, runs)


@app.command()
def verdict(
    study: StudyFile,
    machine: MachineFile = None,
    runs: RunsFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdict.json instead of text.")] = False,
) -> None:
    """Print the verdict of a finished study with its reasons and gates."""
    from flatprobe.cli.study import show_verdict

    show_verdict(study, machine, runs, as_json)


@app.command()
def audit(
    study: StudyFile,
    examples: Annotated[int, typer.Option(help="Examples to show per group of a set.")] = 3,
    machine: MachineFile = None,
    runs: RunsFolder = None,
    as_json: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with complete examples here.")] = None,
) -> None:
    """Show every training set of a study: decoded tokens with their loss terms, and invariants."""
    from flatprobe.cli.audit import AuditOptions
    from flatprobe.cli.audit import audit as audit_study

    audit_study(AuditOptions(study=study, machine=machine, runs=runs, examples=examples, json=as_json, html=html))


for tool in (geometry, analyse, score, simulate):
    app.command()(tool)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from flatprobe.console import say
        from flatprobe.provenance import installed_version

        say(f"flatprobe {installed_version('flatprobe') or '(source tree, not installed)'}")
        raise typer.Exit


def main() -> NoReturn:
    """Entry point. Errors that a user can cause or correct end with an exit status and no traceback.

    Status 2: the user must correct something, such as an option. Status 1: a failure or an interruption.
    """
    from flatprobe import console

    try:
        app()
    except UserError as error:
        outcome = "; ".join(getattr(error, "__notes__", ["nothing was run"]))
        console.fail(error.problems, f"{console.counted(len(error.problems), 'problem')}; {outcome}.")
        sys.exit(error.exit_code)
    except FlatprobeError as error:
        console.fail(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be read
        where = f"{error.filename}: " if error.filename else ""
        console.fail(f"{where}{error.strerror or error}", "finished stages are kept.")
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _interrupted()
        raise
    sys.exit(0)


def _interrupted() -> NoReturn:
    from flatprobe import console
    from flatprobe.errors import Interrupted

    console.fail(str(Interrupted()))
    sys.exit(Interrupted.exit_code)
