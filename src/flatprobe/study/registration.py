"""Registration: a record of the study, written before its first stage.

The digest covers everything that can change a number: the study, and the content of the models, adapters, data files
and hub datasets that it names.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from flatprobe.errors import UserError
from flatprobe.models.reference import Reference
from flatprobe.pipeline.manifest import MANIFEST
from flatprobe.pipeline.stage import canonical_json
from flatprobe.provenance import installed_version
from flatprobe.study.decision_schema import RegistrationState
from flatprobe.study.resolve import Resolved

FILE = "registration.json"


class Registration(BaseModel):
    """The record of a registered study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """sha256, 64 hexadecimal digits."""
    time: str
    """ISO 8601, UTC, in milliseconds like the times of stages."""
    version: str | None
    """Version of flatprobe; None if the package is not installed."""
    study: dict[str, JsonValue]
    """The whole study with its defaults, for people to compare."""
    pinned: dict[str, JsonValue]
    """Commits and hashes of everything the study names, at the time of registration."""


def digest(resolved: Resolved) -> str:
    """sha256 of the study with its defaults, personas, questions, and the content of everything it names.

    Models, adapters and data enter as commits and hashes. So the digest pins unpinned revisions, and the place of a
    local folder or file does not matter. Name and description are left out, because no number depends on them.
    """
    content = {
        "study": _without_names(resolved),
        "pinned": pinned(resolved),
        "personas": [persona.model_dump(mode="json") for persona in resolved.personas],
        "questions": {
            name: [question.model_dump(mode="json") for question in questions]
            for name, questions in resolved.questions.items()
        },
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def pinned(resolved: Resolved) -> dict[str, JsonValue]:
    """The identity of everything outside the study: of `model`, `manipulation`, and each condition.

    A hub repository is identified by id and commit, the embedded model by name and hash, a local folder or file by its
    hash alone.
    """
    study = resolved.study
    content: dict[str, JsonValue] = {"model": _content_of(resolved.model), "manipulation": None}
    if study.manipulation is not None:
        content["manipulation"] = resolved.fingerprints[study.manipulation]
    conditions: dict[str, JsonValue] = {name: _content_of(given) for name, given in resolved.given.items()}
    for name, condition in study.conditions.items():
        if condition.finetune is not None and condition.finetune.path is not None:
            conditions[name] = resolved.fingerprints[condition.finetune.path]
        elif condition.finetune is not None and condition.finetune.dataset is not None:
            conditions[name] = f"{condition.finetune.dataset}@{resolved.dataset_revisions[name]}"
    return {**content, "conditions": conditions}


def _content_of(reference: Reference) -> JsonValue:
    content: dict[str, JsonValue] = reference.model_dump(mode="json")
    if reference.kind == "local":
        del content["id"]  # the folder's name
    return content


def _without_names(resolved: Resolved) -> dict[str, JsonValue]:
    """The study without its name, and without places and revisions, which `pinned` replaces by content."""
    study: dict[str, Any] = resolved.study.model_dump(mode="json", exclude={"name", "description", "manipulation"})
    del study["panel"]["file"], study["questions"]["file"], study["model"]["id"], study["model"]["revision"]
    study["weights"] = {"leading": 10, "cosine": 0.5}  # fields of version 0.1.0; without them every digest would change
    for condition in study["conditions"].values():
        del condition["revision"]
        for origin in ("adapter", "checkpoint"):
            condition[origin] = condition[origin] is not None
        for field in ("path", "dataset", "revision"):
            if condition["finetune"] is not None:
                del condition["finetune"][field]
    return study


def register(resolved: Resolved, run_folder: Path) -> Registration:
    """Write the study's registration into its run folder. An existing registration is never rewritten.

    Nothing needs to be pinned by hand: the registration records the commits of unpinned revisions, and the digest
    covers them.

    Raises:
        UserError: another study is registered there, or a stage finished before the registration.
    """
    study_digest = digest(resolved)
    existing = read_registration(run_folder)
    if existing is not None:
        if existing.digest == study_digest:
            return existing
        raise UserError.one(
            "registration.other_study",
            str(run_folder / FILE),
            f"registered as {existing.digest[:16]}, but the study is now {study_digest[:16]}",
            "undo the change, or give the changed study another name and register that",
        )
    if finished := len(_manifests(run_folder)):
        stages = "a stage has" if finished == 1 else f"{finished} stages have"
        raise UserError.one(
            "registration.too_late",
            str(run_folder),
            f"{stages} already finished: register before the first stage",
            "register in a new run folder, before running",
        )
    registration = Registration(
        digest=study_digest,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        version=installed_version("flatprobe"),
        study=resolved.study.model_dump(mode="json"),
        pinned=pinned(resolved),
    )
    run_folder.mkdir(parents=True, exist_ok=True)
    partial = run_folder / f".{FILE}-{os.getpid()}"
    partial.write_text(registration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.rename(run_folder / FILE)
    return registration


def read_registration(run_folder: Path) -> Registration | None:
    """The registration of a run folder, or None.

    Raises:
        UserError: `register` did not write the file in this form.
    """
    path = run_folder / FILE
    try:
        return Registration.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError.one(
            "registration.damaged", str(path), "not a registration, or an altered one", "restore it from a copy"
        ) from error


def registration_state(run_folder: Path, digest: str) -> RegistrationState:
    """The state that the verdict shows.

    `exploratory`: no registration, or a stage began before it. `deviated`: another study is registered. `confirmatory`:
    this study was registered before its first stage.
    """
    registration = read_registration(run_folder)
    if registration is None:
        return "exploratory"
    if registration.digest != digest:
        return "deviated"
    registered = datetime.fromisoformat(registration.time)
    starts = [start for manifest in _manifests(run_folder) if (start := _started(manifest)) is not None]
    return "exploratory" if any(start < registered for start in starts) else "confirmatory"


def registration_record(run_folder: Path, digest: str) -> dict[str, str | None]:
    """For the report: the study's digest, its registration state, and the time of registration or None."""
    registration = read_registration(run_folder)
    return {
        "digest": digest,
        "registered": registration_state(run_folder, digest),
        "time": registration.time if registration is not None else None,
    }


def _manifests(run_folder: Path) -> list[Path]:
    """Manifests of finished stages. Folders of unfinished stages start with a dot."""
    return sorted((run_folder / "artifacts").glob(f"[!.]*/{MANIFEST}"))


def _started(manifest: Path) -> datetime | None:
    """When a stage began. None for a damaged manifest: its artifact is computed again, so its time does not matter."""
    try:
        content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        return datetime.fromisoformat(content["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
