"""Registration: what a study said it would do, written down before its first stage.

The digest covers everything in the study's own hands that can change a number. A hub dataset is covered by its id and
revision, a model by its id and revision; what a run really used is in the keys of its stages.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from flatprobe.errors import UserError
from flatprobe.pipeline.manifest import MANIFEST
from flatprobe.pipeline.stage import canonical_json
from flatprobe.provenance import installed_version
from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.questions import SET_NAMES, take

State = Literal["confirmatory", "exploratory", "deviated"]
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


def digest(loaded: LoadedStudy) -> str:
    """sha256 of the study with its defaults, the personas and questions in use, and its local data files.

    Name and description are left out, and so is where the panel and questions files lie: no number depends on them.
    """
    study = loaded.study.model_dump(mode="json", exclude={"name", "description"})
    del study["panel"]["file"], study["questions"]["file"]
    content = {
        "study": study,
        "personas": [persona.model_dump(mode="json") for persona in loaded.personas()],
        "questions": {
            name: [
                q.model_dump() for q in take(loaded.questions[name], getattr(loaded.study.questions, name))
            ]
            for name in SET_NAMES
        },
        "files": _data_files(loaded),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _data_files(loaded: LoadedStudy) -> dict[str, str]:
    """Local data file, as the study names it, to the sha256 of its content."""
    finetunes = [condition.finetune for condition in loaded.study.conditions.values()]
    names = {data.path for data in finetunes if data is not None and data.path is not None}
    names |= {loaded.study.manipulation} if loaded.study.manipulation is not None else set()
    hashes = {}
    for name in sorted(names):
        with resources.data_file(name, loaded.base).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def register(loaded: LoadedStudy, run_folder: Path) -> Registration:
    """Write the study's registration into its run folder, once; a registration is never rewritten.

    Raises:
        UserError: another study is registered there, or stages were finished before there was a registration.
    """
    name = digest(loaded)
    there = read_registration(run_folder)
    if there is not None:
        if there.digest == name:
            return there
        raise UserError.one(
            str(run_folder / FILE),
            f"registered as {there.digest[:16]}, but the study is now {name[:16]}",
            "undo the change, or give the changed study another name and register that",
        )
    if finished := len(_manifests(run_folder)):
        stages = "a stage is" if finished == 1 else f"{finished} stages are"
        raise UserError.one(
            str(run_folder),
            f"{stages} finished already: a registration must come before the first",
            "register before running, in a run folder of its own",
        )
    registration = Registration(
        digest=name,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        version=installed_version("flatprobe"),
        study=loaded.study.model_dump(mode="json"),
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
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError.one(
            str(path), "not a registration, or an altered one", "restore it from a copy"
        ) from error


def registration_state(run_folder: Path, digest: str) -> State:
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
    early = any(_started(manifest) < registered for manifest in _manifests(run_folder))
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


def _started(manifest: Path) -> datetime:
    content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return datetime.fromisoformat(content["started"])
