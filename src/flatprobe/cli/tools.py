"""Commands that need no study: on counts, completions, simulated studies and any two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MachineFile = Annotated[
    Path | None,
    typer.Option("--machine", "-m", help="Machine file (threads, device, folders); never changes a number."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the numbers here as JSON; `-` prints them instead of text.")
]


def analyse(
    cells: Annotated[
        Path, typer.Argument(help="CSV or Parquet with columns condition, persona, question_id, hits, total.")
    ],
    treated: Annotated[str | None, typer.Option(help="Treated condition; the result is treated − control.")] = None,
    control: Annotated[str | None, typer.Option(help="Control condition.")] = None,
    bystanders: Annotated[
        list[str] | None,
        typer.Option(help="Personas to pool, separated by commas; may be repeated. None of them was trained on."),
    ] = None,
    trained: Annotated[
        list[str] | None,
        typer.Option(help="Personas that were trained on; a pool with one of them is labelled contaminated."),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Use only these rows: `lambda=1`; may be repeated.")] = None,
    pool: Annotated[str, typer.Option(help="Name of the pool in the output.")] = "bystanders",
    hits: Annotated[str, typer.Option(help="Column of hits, for instance end_hits.")] = "hits",
    margin: Annotated[
        float | None, typer.Option(help="Rate difference to exceed (default: the registered margin).")
    ] = None,
    equivalence: Annotated[
        float | None, typer.Option(help="Rate difference that counts as none (default: the registered kill bound).")
    ] = None,
    level: Annotated[float | None, typer.Option(help="Confidence level (default: the registered one).")] = None,
    resamples: Annotated[
        int | None, typer.Option(help="Draws of each resampling estimator (default: the registered number).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    leave_one_out: Annotated[
        Path | None, typer.Option(help="Write the estimates without each persona and question here (.csv, .parquet).")
    ] = None,
    as_json: JsonFile = None,
) -> None:
    """Compare two conditions by every leakage estimator, on counts that you already have; no model needed."""
    from flatprobe.cli.analyse import AnalyseOptions
    from flatprobe.cli.analyse import analyse as run_analysis

    options = AnalyseOptions(
        cells=cells,
        treated=treated,
        control=control,
        bystanders=bystanders or (),
        trained=trained or (),
        where=where or (),
        pool=pool,
        hits=hits,
        margin=margin,
        equivalence=equivalence,
        level=level,
        resamples=resamples,
        seed=seed,
        leave_one_out=leave_one_out,
        json=as_json,
    )
    run_analysis(options)


def score(
    completions: Annotated[
        Path, typer.Argument(help="JSONL or Parquet: condition, persona, question_id, sample_index, text.")
    ],
    marker: Annotated[str, typer.Option(help="The marker; upper and lower case count alike.")],
    out: Annotated[Path, typer.Option(help="Write the table of cells here: .csv or .parquet.")],
) -> None:
    """Count marked completions per condition, persona and question: the table that `analyse` reads."""
    from flatprobe.cli.score import score_completions

    score_completions(completions, marker, out)


def simulate(
    study: Annotated[
        Path | None, typer.Argument(help="Take size and rule from this study; options override it.")
    ] = None,
    studies: Annotated[int, typer.Option(help="Simulated studies per table row.")] = 400,
    personas: Annotated[int | None, typer.Option(help="Bystanders (default: the study's, or 7).")] = None,
    questions: Annotated[int | None, typer.Option(help="Questions (default: the study's, or 20).")] = None,
    completions: Annotated[int | None, typer.Option(help="Completions per cell (default: the study's, or 10).")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap draws in each study.")] = 2000,
    variance: Annotated[
        list[str] | None,
        typer.Option(
            help="How much personas and questions differ in their response, separated by commas; may be repeated "
            "(default: none,mild,parent)."
        ),
    ] = None,
    truth: Annotated[
        list[str] | None,
        typer.Option(
            help="True leakage differences as rates, separated by commas; may be repeated (default: 0,0.15,0.30)."
        ),
    ] = None,
    joint: Annotated[bool, typer.Option(help="Also simulate both probes and the verdict.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of every random number.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes (default: all cores); never changes a number.")] = None,
    as_json: JsonFile = None,
) -> None:
    """Simulate studies with a known truth: size, power and coverage of every estimator and of the verdict."""
    from flatprobe.cli.simulate import SimulateOptions, run_simulation

    run_simulation(
        SimulateOptions(
            study=study,
            studies=studies,
            personas=personas,
            questions=questions,
            completions=completions,
            resamples=resamples,
            variance=variance,
            truth=truth,
            joint=joint,
            seed=seed,
            jobs=jobs,
            json=as_json,
        )
    )


def geometry(
    base: Annotated[str, typer.Argument(help="A chat model: folder, hub id (OWNER/NAME@REVISION) or embedded:NAME.")],
    treated: Annotated[
        str | None, typer.Argument(help="The other checkpoint. Left out, --adapter makes it from BASE.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="A PEFT adapter of BASE, merged unchanged: folder or hub id.")
    ] = None,
    panel: Annotated[Path | None, typer.Option(help="A panel file (default: the package's).")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="A questions file (its evaluation set), or a .txt with a question per line.")
    ] = None,
    source: Annotated[str, typer.Option(help="The persona that distances are measured to.")] = "librarian",
    bystanders: Annotated[
        list[str] | None,
        typer.Option(
            help="The other personas, separated by commas; may be repeated (default: those of the registered study, "
            "em_flattening; with --panel, all but source and references)."
        ),
    ] = None,
    layers: Annotated[str, typer.Option(help="Decoder blocks: 6,10,14, or all, or auto (six).")] = "auto",
    positions: Annotated[
        list[str] | None, typer.Option(help="Token positions, separated by commas (default: all).")
    ] = None,
    responses: Annotated[
        list[str] | None,
        typer.Option(help="own (each checkpoint's answers), fixed (the base's answers), or own,fixed (default)."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Own answers per question: 1 is greedy; several are sampled and averaged.")
    ] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Limit of an answer, in tokens.")] = 256,
    suffix: Annotated[str, typer.Option(help="Text appended to every question.")] = "",
    n_questions: Annotated[
        int | None, typer.Option(help="Questions, from the top of the file (default: 20, or all if fewer).")
    ] = None,
    resamples: Annotated[int | None, typer.Option(help="Question resamples (default: the registered number).")] = None,
    level: Annotated[float | None, typer.Option(help="Confidence level (default: the registered one).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling and resampling.")] = 0,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of the models.")] = "float32",
    machine: MachineFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; finished stages there are reused (default: one per pair, in runs).")
    ] = None,
    as_json: JsonFile = None,
) -> None:
    """Compare the personas' hidden states in two checkpoints of a chat model: geometry only, no verdict."""
    from flatprobe.cli.geometry import geometry as compare

    compare(
        base,
        treated,
        adapter=adapter,
        panel=panel,
        questions=questions,
        source=source,
        bystanders=bystanders or (),
        layers=layers,
        positions=positions or ("all",),
        responses=responses or ("own,fixed",),
        samples=samples,
        max_new_tokens=max_new_tokens,
        suffix=suffix,
        n_questions=n_questions,
        resamples=resamples,
        level=level,
        seed=seed,
        precision=precision,
        machine=machine,
        out=out,
        json_file=as_json,
    )
