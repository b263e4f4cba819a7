"""The readable part of a run folder: tables, estimates, verdict and report of a finished study."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.facts import StageFacts, read_stage_facts
from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.lock import run_lock
from flatprobe.pipeline.stage import canonical_json, topological_order
from flatprobe.planner.plan import Plan
from flatprobe.provenance import installed_version
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.registration import registration_record

COPIED = {
    "tables": ("tables", "audit.json", "preview.json"),
    "estimates": (
        "estimates.json", "cosines.parquet", "geometry.parquet", "massive.parquet", "persona_pairs.parquet",
        "specifications.parquet", "leave_one_out.parquet", "multiplicity.parquet", "dose_response.parquet",
        "dose_gaps.parquet", "relative_leakage.parquet", "comparison.json",
    ),
    "verdict": ("verdict.json",),
}  # fmt: skip
"""What is copied from which artifact, if it exists; the report refuses folders that lack a file. Parquet files go to
`tables/`."""

SHOWN = (
    "unlikelihood_at_start", "inert", "steps", "planned_steps", "reached", "source_log_p", "largest_other",
    "containment", "answer_log_p", "marker_first", "debris_first", "empty", "warnings",
)  # fmt: skip
"""Facts of a coupling that the page shows."""

STAMP = ".stamp"
"""File of the analysis folder that identifies what it was made from."""


def assemble(loaded: LoadedStudy, digest: str, plan: Plan, folder: Path, *, again: bool = False) -> Path:
    """Write `analysis/` and `report.html` of a finished study, unless both are up to date.

    Returns the report's path. Holds the run folder's lock, so no run replaces an artifact meanwhile.

    Raises:
        UserError: a stage is not finished, another run uses the folder, or it cannot be written.
    """
    analysis, page = folder / "analysis", folder / "report.html"
    with run_lock(folder):
        artifacts = _artifacts(plan, folder)
        record = registration_record(folder, digest)
        study = loaded.study.model_dump(mode="json")
        stamp = _stamp(artifacts, record, study)
        if not again and page.is_file() and _stamp_of(analysis) == stamp:
            return page
        partial, partial_page = folder / ".analysis-partial", folder / ".report-partial.html"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _fill(partial, artifacts, plan, {"study": study, "registration": record})
        _render(partial, partial_page)
        (partial / STAMP).write_text(stamp)
        # The stamp arrives last, so an interrupted write is repeated.
        shutil.rmtree(analysis, ignore_errors=True)
        partial_page.replace(page)
        partial.rename(analysis)
    return page


def _fill(target: Path, artifacts: dict[str, Artifact], plan: Plan, documents: dict[str, Any]) -> None:
    """Copy the tables, estimates and verdict, and write what describes the run beside them."""
    for name, files in COPIED.items():
        if (stage := getattr(plan, name)) is not None:
            for file in files:
                _copy(artifacts[stage.name].folder / file, target)
    tables = artifacts[plan.tables.name].folder
    if (tables / "selection.json").is_file():
        shutil.copy(tables / "selection.json", target / "lambda.json")
    facts = read_stage_facts(tables / "facts-by-stage.json")
    stages = [
        artifact.manifest.model_dump(mode="json", include={"name", "key", "function", "seconds"})
        for artifact in artifacts.values()
    ]
    provenance = artifacts[plan.last.name].manifest.provenance.model_dump(mode="json")
    written = {**documents, "stages": stages, "provenance": provenance, "models": _models(facts)}
    for name, content in written.items():
        (target / f"{name}.json").write_text(json.dumps(content, indent=1))


def _render(analysis: Path, page: Path) -> None:
    from flatprobe.report.pages.study import render

    render(analysis, page)


def _artifacts(plan: Plan, folder: Path) -> dict[str, Artifact]:
    store = ArtifactStore(folder)
    artifacts: dict[str, Artifact] = {}
    for stage in topological_order([plan.last]):
        artifact = store.find(stage)
        if artifact is None:
            raise UserError.one(
                "run.unfinished", str(folder), f"stage {stage.name} is not finished", "run the study first"
            )
        artifacts[stage.name] = artifact
    return artifacts


def _stamp(artifacts: dict[str, Artifact], record: dict[str, Any], study: dict[str, Any]) -> str:
    """A hash of all that the page shows: artifacts, registration, and the study with its name and description."""
    contents = {name: artifact.manifest.content for name, artifact in artifacts.items()}
    content = [installed_version("flatprobe"), record, study, contents]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _stamp_of(analysis: Path) -> str | None:
    stamp = analysis / STAMP
    return stamp.read_text() if stamp.is_file() else None


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        return
    if source.is_dir():
        shutil.copytree(source, target / source.name, dirs_exist_ok=True)
    elif source.suffix == ".parquet":
        (target / "tables").mkdir(exist_ok=True)
        shutil.copy(source, target / "tables")
    else:
        shutil.copy(source, target)


def _models(stages: Sequence[StageFacts]) -> dict[str, Any]:
    """Per condition: where its checkpoint comes from, its proof or fingerprint, and how its couplings went."""
    models: dict[str, Any] = {}
    for stage in stages:
        if stage.condition is None:
            continue
        model = models.setdefault(stage.condition, {})
        facts = stage.facts.model_dump(mode="json", by_alias=True)
        match stage.kind:
            case "checkpoint":
                model.update(facts)
            case "finetune_data":
                model["data"] = facts
            case "couple":
                coupling = {"lambda": facts["lambda"], "seed": stage.seed}
                coupling |= {name: facts[name] for name in SHOWN}
                model.setdefault("couplings", []).append(coupling)
    return {condition: model for condition, model in models.items() if model}
