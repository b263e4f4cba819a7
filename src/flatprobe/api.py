"""Functions of the Python API that adapt the package's own to plain arguments. Paths may be text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flatprobe.errors import Problem, UserError

if TYPE_CHECKING:
    import polars as pl

    from flatprobe.analysis.results import Results
    from flatprobe.statistics.estimate import Estimate
    from flatprobe.statistics.geometry.states import States
    from flatprobe.study.loaded import LoadedStudy

PathLike = str | Path


def load_study(path: PathLike) -> LoadedStudy:
    """Read a study and check all that can be checked without its model; imports no torch.

    Returns the study (`.study`, a frozen pydantic model) with its panel, questions and notices.

    Raises:
        UserError: everything that is wrong; `.problems` has code, place, message and remedy of each.

    Example:
        >>> import flatprobe
        >>> flatprobe.load_study("studies/demo.yaml").study.panel.source
        'librarian'
    """
    from flatprobe.study.load import load_study as load

    return load(Path(path))


def plan(study: PathLike, *, machine: PathLike | None = None, runs: PathLike | None = None) -> pl.DataFrame:
    """The stages of a study in the order in which they run; runs nothing, imports no torch.

    Args:
        machine: a machine file; None is this machine as it is.
        runs: folder of run folders; None takes the machine file's (`runs`).

    Returns:
        A row per stage: `stage`, `kind`, `key` (64 hexadecimal digits), `state` (`finished`, `missing`, `damaged`,
        `running`) and `seconds` (null where it is not finished).

    Raises:
        UserError: everything that is wrong with the study.

    Example:
        >>> import flatprobe
        >>> flatprobe.plan("studies/demo.yaml")["stage"][0]
        'checkpoint/model'
    """
    import polars as pl

    from flatprobe.machine.load import load_machine
    from flatprobe.pipeline.stage import topological_order
    from flatprobe.pipeline.status import status
    from flatprobe.prepare import prepare

    prepared = prepare(Path(study), load_machine(_path(machine)), _path(runs))
    targets = [prepared.plan.last]
    kinds = {stage.key: stage.kind for stage in topological_order(targets)}
    rows = [
        {"stage": row.name, "kind": kinds[row.key], "key": row.key, "state": row.state, "seconds": row.seconds}
        for row in status(targets, prepared.folder)
    ]
    return pl.DataFrame(rows, schema_overrides={"seconds": pl.Float64})


def run(
    study: PathLike,
    *,
    machine: PathLike | None = None,
    runs: PathLike | None = None,
    register: bool = False,
    quiet: bool = False,
) -> Results:
    """Run a study, or continue it where it stopped, and read its results. Finished stages are not run again.

    Workers are spawned: call it under `if __name__ == "__main__":` in a script.

    Args:
        machine: a machine file; None is this machine as it is.
        runs: folder of run folders; None takes the machine file's (`runs`).
        register: register the study before its first stage, so that its verdict is confirmatory.
        quiet: show no progress.

    Raises:
        UserError: everything that is wrong with the study; nothing is run then.
        StageFailed: a stage ended without an artifact; finished stages are kept.
        Interrupted: the run was stopped; the same call continues it.

    Example:
        >>> import flatprobe
        >>> results = flatprobe.run("studies/quick.yaml")  # doctest: +SKIP
        >>> results.verdict.headline()  # doctest: +SKIP
    """
    from flatprobe.analysis.results import read_results
    from flatprobe.machine.load import load_machine
    from flatprobe.pipeline.display import Display, display_for_people
    from flatprobe.prepare import prepare, run_prepared

    prepared = prepare(
        Path(study), load_machine(_path(machine)), _path(runs), check_model=True, keep=True, register=register
    )
    run_prepared(prepared, Display() if quiet else display_for_people())
    return read_results(prepared.folder)


def sample(
    model: str,
    personas: Mapping[str, str | None],
    questions: Sequence[str],
    *,
    adapter: str | None = None,
    samples: int = 1,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    machine: PathLike | None = None,
    runs: PathLike | None = None,
) -> pl.DataFrame:
    """Sample answers of a model to questions under system prompts, with the engine that the machine file names.

    Answers are kept in a run folder named after the request: the same call reads them again, and a call that was
    stopped continues. Call it under `if __name__ == "__main__":` in a script, because workers are spawned.

    Args:
        model: a folder, a hub id (`OWNER/NAME`), or `embedded:smollm2-135m-instruct`.
        personas: name → system prompt; None sends no system message.
        questions: texts of the user's turn.
        adapter: a PEFT adapter of the model (folder or hub id), merged before sampling.
        samples: answers per persona and question.
        temperature: 0 is greedy.
        seed: each answer has its own random stream, derived from this number.
        precision: arithmetic of the forward passes.

    Returns:
        A row per answer, with `persona`, `question_id` (`q0`, `q1`, … in the order given), `sample_index`, `text`,
        `tokens` and `finish_reason` (`stop` or `length`) among its columns.

    Raises:
        UserError: the model, the adapter or an argument cannot be used.

    Example:
        >>> import flatprobe
        >>> flatprobe.sample(
        ...     "embedded:smollm2-135m-instruct",
        ...     {"librarian": "You are a librarian."},
        ...     ["Where are the maps?"],
        ... )  # doctest: +SKIP
    """
    import hashlib

    import polars as pl

    from flatprobe.machine.load import load_machine
    from flatprobe.models.reference import resolve
    from flatprobe.pipeline.display import display_for_people
    from flatprobe.pipeline.runner import run as run_stages
    from flatprobe.planner.contracts import CheckpointSettings, MergeSettings, SampleSettings
    from flatprobe.planner.stages import MODEL, stage
    from flatprobe.prepare import runner_settings
    from flatprobe.study.panel import Persona
    from flatprobe.study.questions import Question

    sizes = {"samples": samples, "max_new_tokens": max_new_tokens}
    problems = [
        Problem("sample.size", name, f"{value} is too small", "at least 1")
        for name, value in sizes.items()
        if value < 1
    ]
    if not personas:
        problems.append(Problem("sample.personas", "personas", "there is none", "give name → system prompt"))
    if not questions:
        problems.append(Problem("sample.questions", "questions", "there is none", "give at least one text"))
    if temperature < 0 or not 0 < top_p <= 1:
        problems.append(
            Problem("sample.temperature", "temperature, top_p", f"{temperature}, {top_p}", "≥ 0 and in (0, 1]")
        )
    if problems:
        raise UserError(problems)
    located = resolve(model, None, "model")
    locations = {} if located.location is None else {located.reference.fingerprint: located.location}
    checkpoint = stage("checkpoint/model", "checkpoint", CheckpointSettings(reference=located.reference))
    if adapter is not None:
        given = resolve(adapter, None, "adapter")
        if given.location is not None:
            locations[given.reference.fingerprint] = given.location
        merge = MergeSettings(dtype=precision, given=given.reference)
        checkpoint = stage("checkpoint/merged", "merge", merge, MODEL, checkpoint=checkpoint)
    settings = SampleSettings(
        personas=tuple(Persona(name=name, role="bystander", system=text) for name, text in personas.items()),
        questions=tuple(Question(id=f"q{n}", kind="value", text=text) for n, text in enumerate(questions)),
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        precision=precision,
        seed=f"{seed}/sample",
        stop_at=None,
        parity_prompts=0,
    )
    answers = stage("answers", "sample", settings, MODEL, checkpoint=checkpoint)
    here = load_machine(_path(machine))
    name = hashlib.sha256(answers.key.encode()).hexdigest()[:12]
    folder = (_path(runs) or Path(here.runs)) / f"sample-{name}"
    summary = run_stages([answers], folder, runner_settings(here, locations), display_for_people())
    return pl.read_parquet(summary.artifacts["answers"].folder / "completions.parquet")


def simulate(
    *,
    studies: int = 400,
    personas: int = 7,
    questions: int = 20,
    completions: int = 10,
    resamples: int = 2000,
    variances: Sequence[str] = ("none", "mild", "parent"),
    truths: Sequence[float] = (0.0, 0.15, 0.30),
    joint: bool = True,
    seed: int = 0,
    jobs: int = 1,
) -> dict[str, pl.DataFrame]:
    """Simulate studies with a known truth: size, power and coverage of every estimator and of the joint verdict.

    Args:
        studies: simulated studies per regime and truth.
        variances: how much personas and questions differ in their response: `none`, `mild`, `parent`.
        truths: true differences in leakage, as rates (0.15 is 15 pp).
        joint: also simulate both probes and the verdict.
        jobs: processes; never changes a number.

    Returns:
        `leakage` (a row per regime, truth and estimator) and `joint` (a row per regime and truth of both probes).

    Raises:
        UserError: everything that is wrong with the arguments.

    Example:
        >>> import flatprobe
        >>> tables = flatprobe.simulate(
        ...     studies=20, resamples=200, variances=["none"], truths=[0.0], joint=False
        ... )
        >>> tables["leakage"].height  # one row per estimator
        9
    """
    import polars as pl

    from flatprobe.simulation.cells import StudySize
    from flatprobe.simulation.grid import Grid
    from flatprobe.simulation.grid import simulate as simulate_grid

    grid = Grid(
        studies=studies,
        size=StudySize(personas=personas, questions=questions, completions=completions),
        resamples=resamples,
        variances=tuple(variances),
        truths=tuple(truths),
        joint=joint,
        seed=seed,
    )
    simulated = simulate_grid(grid, jobs)
    return {
        "leakage": pl.DataFrame([row.to_json() for row in simulated.leakage]),
        "joint": pl.DataFrame([row.to_json() for row in simulated.joint]),
    }


def leakage_contrast(
    cells: pl.DataFrame | PathLike,
    treated: str,
    control: str,
    bystanders: Sequence[str],
    *,
    trained: Collection[str] = (),
    resamples: int | None = None,
    seed: int = 0,
    level: float | None = None,
    margin: float | None = None,
    equivalence_margin: float | None = None,
) -> list[Estimate]:
    """Estimate how much more the bystanders emit the marker in one condition than in another, by nine estimators.

    Args:
        cells: a row per cell with condition, persona, question_id, hits and total; or a CSV or Parquet file of them.
        treated, control: conditions; the difference is treated - control, as a difference of rates (0.15 is 15 pp).
        bystanders: personas to pool, none of which was trained on.
        trained: personas that were trained on; a pool with one of them is labelled contaminated.
        resamples: draws of each resampling estimator; None takes the registered number.
        level: confidence level; None takes the registered one.
        margin: each estimate also tests H0: difference <= margin; None takes the registered margin.
        equivalence_margin: each also tests H0: |difference| >= this; None takes the registered kill bound.

    Returns:
        One estimate per estimator, each with its scope. One that the design does not support has no numbers, and its
        note says why.

    Raises:
        UserError: everything that is wrong with the counts and the arguments.

    Example:
        >>> import flatprobe
        >>> estimates = flatprobe.leakage_contrast(
        ...     "examples/leakage_cells.csv", "em_first", "base_first", ["comedian", "villain"]
        ... )
        >>> f"{estimates[2].estimator} {estimates[2].estimate:+.3f}"
        'question_t +0.580'
    """
    from flatprobe.counts.cell_files import read_cells
    from flatprobe.statistics.leakage.estimators import leakage_contrast as contrast
    from flatprobe.study.decision_schema import BehaviouralLeg, Kill
    from flatprobe.study.panel import PRIMARY_POOL

    registered = BehaviouralLeg()
    return contrast(
        read_cells(cells) if isinstance(cells, str | Path) else cells,
        treated,
        control,
        bystanders,
        pool=PRIMARY_POOL,
        resamples=registered.resamples if resamples is None else resamples,
        seed=seed,
        level=registered.level if level is None else level,
        contaminated=bool(set(trained) & set(bystanders)),
        margin=registered.margin if margin is None else margin,
        equivalence_margin=Kill().leakage if equivalence_margin is None else equivalence_margin,
    )


def geometry_contrasts(
    states: Mapping[str, States],
    pairs: Sequence[tuple[str, str]],
    source: str,
    bystanders: Sequence[str],
    *,
    position: str = "last_response_token",
    responses: Literal["own", "fixed"] = "own",
    measures: Sequence[str] | None = None,
    resamples: int | None = None,
    seed: int = 0,
    level: float | None = None,
) -> list[Estimate]:
    """Estimate how much closer the source's hidden states are to the bystanders' in one condition than in another.

    Args:
        states: condition → `States`, all on the same personas, questions and layers.
        pairs: (treated, control) conditions.
        source, bystanders: personas; measures compare the source with each bystander.
        position, responses: where the states were read; the estimates are labelled with it.
        measures: names of measures (docs/method.md); None takes all.
        resamples: bootstrap draws of the questions; None takes the registered number.
        level: confidence level; None takes the registered one.

    Returns:
        Estimates per pair, measure, layer (None: the mean over layers) and estimator. Cosine differences are in cosine
        units; `contraction` is -log of the scatter ratio; positive means flatter.

    Raises:
        UserError: a persona without states, or conditions that do not fit each other.

    Example:
        >>> import numpy as np, flatprobe
        >>> draw = np.random.default_rng(0)
        >>> personas, questions = ("librarian", "villain", "comedian"), ("q1", "q2", "q3", "q4")
        >>> means = 5.0 * draw.normal(size=64) + draw.normal(size=(3, 1, 1, 64))
        >>> def states(condition, shrink):
        ...     centre = means.mean(axis=0)
        ...     h_PQLD = centre + shrink * (means - centre) + 0.5 * draw.normal(size=(3, 4, 1, 64))
        ...     return flatprobe.States(condition, personas, questions, (6,), h_PQLD.astype(np.float32))
        >>> estimates = flatprobe.geometry_contrasts(
        ...     {"base": states("base", 1.0), "tuned": states("tuned", 0.5)}, [("tuned", "base")],
        ...     "librarian", ["villain", "comedian"], measures=["contraction"], resamples=200,
        ... )
        >>> estimates[0].quantity, estimates[0].estimate > 0
        ('contraction', True)
    """
    from flatprobe.statistics.geometry.contrasts import GeometryOptions
    from flatprobe.statistics.geometry.contrasts import geometry_contrasts as contrasts
    from flatprobe.statistics.geometry.states import StateKind
    from flatprobe.study.decision_schema import GeometricLeg
    from flatprobe.study.panel import PRIMARY_POOL
    from flatprobe.study.schema import Geometry

    options = GeometryOptions(
        kind=StateKind(responses, position),
        pool=PRIMARY_POOL,
        resamples=Geometry().resamples if resamples is None else resamples,
        seed=seed,
        level=GeometricLeg().level if level is None else level,
        measures=None if measures is None else tuple(measures),
    )
    return contrasts(states, pairs, source, bystanders, options)


def _path(given: PathLike | None) -> Path | None:
    return None if given is None else Path(given)
