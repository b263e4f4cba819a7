"""The run folder's face: tables, estimates, verdict and report of a finished study, laid out for people."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.plan import Plan
from flatprobe.pipeline.stage import topological_order
from flatprobe.provenance import installed_version
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.registration import registration_record

COPIED = {
    "tables": ("tables", "audit.json", "preview.json"),
    "estimates": ("estimates.json", "cosines.parquet", "geometry.parquet"),
    "verdict": ("verdict.json",),
}
"""What is copied from which artifact; Parquet files end up among the tables."""


def assemble(loaded: LoadedStudy, digest: str, plan: Plan, folder: Path, *, again: bool = False) -> Path:
    """Write `analysis/` and `report.html` of a finished study, unless they are of these very artifacts already.

    Returns the report's path.

    Raises:
        UserError: a stage is not finished.
    """
    found = _artifacts(plan, folder)
    record = registration_record(folder, digest)
    stamp_text = _stamp(found, record)
    stamp, page = folder / "analysis" / ".stamp", folder / "report.html"
    if not again and page.is_file() and stamp.is_file() and stamp.read_text() == stamp_text:
        return page
    analysis, partial = folder / "analysis", folder / ".analysis-partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, files in COPIED.items():
        source = found[getattr(plan, name).name].folder
        for file in files:
            _copy(source / file, partial)
    tables = found[plan.tables.name].folder
    shutil.copy(tables / "selection.json", partial / "lambda.json")
    facts = json.loads((tables / "facts-by-stage.json").read_text())
    documents: dict[str, Any] = {
        "study": loaded.study.model_dump(mode="json"),
        "registration": record,
        "stages": [
            artifact.manifest.model_dump(mode="json", include={"name", "key", "function", "seconds"})
            for artifact in found.values()
        ],
        "provenance": found[plan.verdict.name].manifest.provenance.model_dump(mode="json"),
        "models": _models(facts),
    }  # fmt: skip
    for name, content in documents.items():
        (partial / f"{name}.json").write_text(json.dumps(content, indent=1))
    _render(partial, folder / ".report-partial.html")
    (partial / ".stamp").write_text(stamp_text)
    shutil.rmtree(analysis, ignore_errors=True)
    partial.rename(analysis)
    (folder / ".report-partial.html").replace(page)
    return page


def _render(analysis: Path, page: Path) -> None:
    from flatprobe.report.html import render

    render(analysis, page)


def _artifacts(plan: Plan, folder: Path) -> dict[str, Artifact]:
    store = ArtifactStore(folder)
    found: dict[str, Artifact] = {}
    for stage in topological_order([plan.verdict]):
        artifact = store.find(stage)
        if artifact is None:
            raise UserError.one(str(folder), f"stage {stage.name} is not finished", "run the study first")
        found[stage.name] = artifact
    return found


def _stamp(found: dict[str, Artifact], record: dict[str, Any]) -> str:
    content = [installed_version("flatprobe"), record, *sorted(a.manifest.key for a in found.values())]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target / source.name, dirs_exist_ok=True)
    elif source.suffix == ".parquet":
        (target / "tables").mkdir(exist_ok=True)
        shutil.copy(source, target / "tables")
    else:
        shutil.copy(source, target)


def _models(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Per condition: where its checkpoint comes from, and the proof or fingerprint."""
    models: dict[str, Any] = {}
    for fact in facts:
        if fact["kind"] == "checkpoint":
            models.setdefault(fact["condition"], {}).update(fact["facts"])
        elif fact["kind"] == "finetune_data":
            models.setdefault(fact["condition"], {})["data"] = fact["facts"]
    return models
