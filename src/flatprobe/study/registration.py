"""Registration: what a study said it would do, written down before its first stage.

The digest covers everything that can change a number: the study, and the content of the models, adapters, data files
and hub datasets that it names, as they are when it is registered.
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
    """A study as it was registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """sha256, 64 hexadecimal digits."""
    time: str
    """ISO 8601, UTC, to the millisecond, as the times of stages are."""
    version: str | None
    """Version of flatprobe; None when it is imported from a tree that is not installed."""
    study: dict[str, JsonValue]
    """The whole study with its defaults, for people to compare."""
    pinned: dict[str, JsonValue]
    """Commits and hashes of what the study names, as they were when it was registered."""


def digest(resolved: Resolved) -> str:
    """sha256 of the study with its defaults, its personas and questions, and the content of all that it names.

    Models, adapters and data stand there as commits and hashes, so an unpinned revision is pinned by the digest, and
    it does not matter where a local folder or file lies. Name and description are left out: no number depends on them.
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
    """What identifies everything outside the study: by condition, and for `model` and `manipulation`.

    A hub repository is its id and commit, the embedded model its name and hash, a local thing its hash alone.
    """
    study = resolved.study
    found: dict[str, JsonValue] = {"model": _content_of(resolved.model), "manipulation": None}
    if study.manipulation is not None:
        found["manipulation"] = resolved.fingerprints[study.manipulation]
    conditions: dict[str, JsonValue] = {name: _content_of(given) for name, given in resolved.given.items()}
    for name, condition in study.conditions.items():
        if condition.finetune is not None and condition.finetune.path is not None:
            conditions[name] = resolved.fingerprints[condition.finetune.path]
        elif condition.finetune is not None and condition.finetune.dataset is not None:
            conditions[name] = f"{condition.finetune.dataset}@{resolved.dataset_revisions[name]}"
    return {**found, "conditions": conditions}


def _content_of(reference: Reference) -> JsonValue:
    content: dict[str, JsonValue] = reference.model_dump(mode="json")
    if reference.kind == "local":
        del content["id"]  # the folder's name
    return content


def _without_names(resolved: Resolved) -> dict[str, JsonValue]:
    """The study without its name and without what says where something lies: `pinned` says what it is."""
    study: dict[str, Any] = resolved.study.model_dump(
        mode="json", exclude={"name", "description", "manipulation"}
    )
    del study["panel"]["file"], study["questions"]["file"], study["model"]["id"], study["model"]["revision"]
    for condition in study["conditions"].values():
        del condition["revision"]
        for origin in ("adapter", "checkpoint"):
            condition[origin] = condition[origin] is not None
        for field in ("path", "dataset", "revision"):
            if condition["finetune"] is not None:
                del condition["finetune"][field]
    return study


def register(resolved: Resolved, run_folder: Path) -> Registration:
    """Write the study's registration into its run folder, once; a registration is never rewritten.

    Nothing needs to be pinned by hand: the commits that unpinned revisions stand for are written down and part of the
    digest.

    Raises:
        UserError: another study is registered there, or stages were finished before there was a registration.
    """
    name = digest(resolved)
    there = read_registration(run_folder)
    if there is not None:
        if there.digest == name:
            return there
        raise UserError.one(
            "registration.TODO",
            str(run_folder / FILE),
            f"registered as {there.digest[:16]}, but the study is now {name[:16]}",
            "undo the change, or give the changed study another name and register that",
        )
    if finished := len(_manifests(run_folder)):
        stages = "a stage is" if finished == 1 else f"{finished} stages are"
        raise UserError.one(
            "registration.TODO",
            str(run_folder),
            f"{stages} finished already: a registration must come before the first",
            "register before running, in a run folder of its own",
        )
    registration = Registration(
        digest=name,
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
        UserError: the file is not what `register` wrote.
    """
    path = run_folder / FILE
    try:
        return Registration.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError.one(
            "registration.TODO", str(path), "not a registration, or an altered one", "restore it from a copy"
        ) from error


def registration_state(run_folder: Path, digest: str) -> RegistrationState:
    """What a verdict may call itself.

    `exploratory` without a registration that came before every artifact's first second; `deviated` where the study
    registered is another one; else `confirmatory`.
    """
    registration = read_registration(run_folder)
    if registration is None:
        return "exploratory"
    if registration.digest != digest:
        return "deviated"
    registered = datetime.fromisoformat(registration.time)
    starts = [started for manifest in _manifests(run_folder) if (started := _started(manifest)) is not None]
    early = any(started < registered for started in starts)
    return "exploratory" if early else "confirmatory"


def registration_record(run_folder: Path, digest: str) -> dict[str, str | None]:
    """What the report shows: the study's digest, its state, and when it was registered, if it was."""
    registration = read_registration(run_folder)
    return {
        "digest": digest,
        "registered": registration_state(run_folder, digest),
        "time": registration.time if registration is not None else None,
    }


def _manifests(run_folder: Path) -> list[Path]:
    """Manifests of finished stages; folders that a stage was still writing have a leading dot."""
    return sorted((run_folder / "artifacts").glob(f"[!.]*/{MANIFEST}"))


def _started(manifest: Path) -> datetime | None:
    """When a stage began; None for a damaged manifest, whose artifact no run uses: it is computed again."""
    try:
        content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        return datetime.fromisoformat(content["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
