"""Geometry of two checkpoints, from Python or for `flatprobe geometry`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flatprobe.config.blocks import RESPONSES
from flatprobe.errors import Problem, UserError
from flatprobe.machine.schema import Machine
from flatprobe.models.pinned import Pins, read_pins, write_pins
from flatprobe.models.reference import describing_folder, read_config, resolve
from flatprobe.pipeline.stage import canonical_json
from flatprobe.prepare import announce_conversion, planned, resolve_checked, run_prepared
from flatprobe.study.comparison import POSITIONS, ComparisonOptions, load_comparison, named
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.recipe_schema import Precision
from flatprobe.study.resolve import Resolved
from flatprobe.study.schema import Panel

if TYPE_CHECKING:
    import polars as pl

    from flatprobe.pipeline.display import Display


@dataclass(frozen=True)
class CheckpointComparison:
    """What `compare_checkpoints` returns."""

    rows: pl.DataFrame
    """A row per measure, layer, position, responses and persona: levels of `base` and `treated`, `difference`, interval
    and p; the columns are those of `analysis.comparison_rows.Row`."""
    identical: bool
    """Whether all states of both checkpoints are equal, so that every difference is exactly 0."""
    conclusion: tuple[str, ...]
    """What changed, and what limits the reading; a sentence each."""
    folder: Path
    """The run folder."""
    page: Path
    """The report."""


def compare_checkpoints(
    base: str,
    treated: str | None = None,
    *,
    adapter: str | None = None,
    panel: Path | None = None,
    questions: Path | None = None,
    source: str = Panel.model_fields["source"].default,
    bystanders: Sequence[str] | None = None,
    layers: Sequence[int] | Literal["auto", "all"] = "auto",
    positions: Sequence[str] = POSITIONS,
    responses: Sequence[str] = RESPONSES,
    samples: int = 1,
    max_new_tokens: int = 256,
    suffix: str = "",
    n_questions: int | None = None,
    resamples: int | None = None,
    level: float | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    machine: Machine | None = None,
    out: Path | None = None,
    display: Display | None = None,
    problems: Iterable[Problem] = (),
) -> CheckpointComparison:
    """Compare the personas' hidden states in two checkpoints of one chat model.

    It runs a study without a coupling. Finished stages in the run folder are reused, so other layers, positions or
    resamples need no new answers. Workers are spawned, so a script calls this under `if __name__ == "__main__":`.

    Example:
        >>> comparison = compare_checkpoints("base-model", "finetuned-model", layers=[6, 14])  # doctest: +SKIP
        >>> comparison.rows.filter(measure="contraction", layer=14, position="response_mean")  # doctest: +SKIP

    Args:
        base: A chat model: folder, hub id OWNER/NAME[@REVISION], or embedded:NAME.
        treated: The other checkpoint, likewise.
        adapter: A PEFT adapter of the base (folder or hub id) in place of `treated`.
        panel: A panel file; None is the package's.
        questions: A questions file (its evaluation set), or a .txt with a question per line; None is the package's.
        source: The persona that distances are measured to.
        bystanders: The other personas. None: the registered study's, or all of your panel but source and references.
        layers: 0-based decoder blocks, "all", or "auto" (the registered layers at the same relative depth).
        positions: Token positions that are read.
        responses: Whose answers states are read on: "own", "fixed" (the base's), or both.
        samples: Own answers per question: 1 is greedy; several are sampled and their states averaged.
        max_new_tokens: Limit of an answer.
        suffix: Text appended to every question.
        n_questions: Questions taken from the top; None: 20, or all if there are fewer.
        resamples: Question resamples; None is the registered number.
        level: Confidence level of the intervals; None is the registered one.
        seed: Seed of sampling and resampling.
        precision: Arithmetic of the models.
        machine: How to run; never changes a number.
        out: Run folder; None: one per pair of checkpoints in `machine.runs`.
        display: Shows progress; None shows nothing.
        problems: What the caller knows to be wrong already; raised together with all other problems.

    Returns:
        Rows with the levels of both checkpoints and treated - base (for ratios, treated / base).

    Raises:
        UserError: everything that is wrong, at once, before weights are read. Problems are placed at the options of
            `flatprobe geometry`.
    """
    from flatprobe.report.analysis_folder import read
    from flatprobe.report.comparison import conclusion

    options = ComparisonOptions(
        base=base,
        treated=treated,
        adapter=adapter,
        panel=panel,
        questions=questions,
        source=source,
        bystanders=bystanders,
        layers=layers,
        positions=positions,
        responses=responses,
        samples=samples,
        max_new_tokens=max_new_tokens,
        suffix=suffix,
        n_questions=n_questions,
        resamples=resamples,
        level=level,
        seed=seed,
        precision=precision,
    )
    machine = machine or Machine()
    pins = read_pins(out or Path(machine.runs))
    if out is None:  # in a shared folder, commits of unpinned names would outlive their comparison
        pins = Pins(folders=pins.folders)
    loaded, resolved = _checked(options, pins, list(problems))
    write_pins(pins, out or Path(machine.runs))
    folder = out or Path(machine.runs) / f"geometry-{_digest(resolved)}"
    _, page = run_prepared(planned(loaded, resolved, machine, folder), display)
    analysis = read(folder / "analysis")
    return CheckpointComparison(
        rows=_frame(row for row in analysis.comparison["rows"] if row["responses"] in responses),
        identical=analysis.comparison["identical"],
        conclusion=tuple(conclusion(analysis)),
        folder=folder,
        page=page,
    )


def _checked(options: ComparisonOptions, pins: Pins, problems: list[Problem]) -> tuple[LoadedStudy, Resolved]:
    """The study with everything that it names identified.

    Raises:
        UserError: all problems that can be found without weights.
    """
    loaded = load_comparison(options, _depth(options, pins), problems)
    return loaded, resolve_checked(loaded, problems, pins, check_model=True)


def _depth(options: ComparisonOptions, pins: Pins) -> int | None:
    """Decoder blocks of the base. None if its configuration cannot be read, which the model's checks report."""
    if options.layers not in ("auto", "all"):
        return None
    name = named("id", options.base)
    try:
        located = resolve(name["id"], name["revision"], "BASE", pins)
        announce_conversion(located.reference)
        folder = describing_folder(located.reference, located.location)
        return int(read_config(folder, "BASE")["num_hidden_layers"])
    except (UserError, KeyError, TypeError, ImportError):
        return None


def _digest(resolved: Resolved) -> str:
    """Of the checkpoints alone, so that comparisons of the same two share a folder and its finished stages."""
    given = resolved.given.get("treated")
    is_adapter = resolved.study.conditions["treated"].adapter is not None
    sides = (resolved.model, None if is_adapter else given, given if is_adapter else None)
    references = [None if reference is None else reference.model_dump() for reference in sides]
    return hashlib.sha256(canonical_json(references).encode()).hexdigest()[:12]


def _frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)
